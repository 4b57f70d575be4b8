"""Where requests come from. A source is an IPv4 address or an IPv6 /64: whoever has one address
of a /64 has them all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

_V6_PREFIX: Final = 64


@dataclass(slots=True, eq=False)
class Source:
    """The connection that a request came on."""

    host: str
    port: int
    #: Whether others speak from the same address, so that it proves nothing.
    is_shared: bool = False
    #: What unsigned registrations say of known nodes; a signed request on this connection makes it
    #: true.
    pending: dict[int, dict[str, Any]] = field(default_factory=dict)
    #: Nodes that signed something on this connection.
    proven: set[int] = field(default_factory=set)


@lru_cache(maxsize=4096)
def source_of(host: str) -> tuple[str, bool]:
    """The source an IP address belongs to, and whether it is this host."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address), _V6_PREFIX), strict=False)
            return str(network), address.is_loopback
        address = address.ipv4_mapped
    return str(address), address.is_loopback
