"""Connections and sources of requests. A source is an IPv4 address or an IPv6 /64, since a host
with one address of a /64 can use them all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec

_V6_PREFIX: Final = 64


class Announcement(msgspec.Struct, frozen=True, gc=False):
    """What a registration says of its node; an empty hostname leaves the name as it is."""

    endpoint: str
    owner: str
    version: str
    lan_addrs: tuple[str, ...]
    relay_only: bool
    hostname: str = ""


@dataclass(slots=True, eq=False)
class Source:
    """The connection that a request came on."""

    host: str
    port: int
    #: Others share the address (a proxy on this host), so it identifies nobody.
    is_shared: bool = False
    #: Unsigned registrations of known nodes; a signed request on this connection applies them.
    pending: dict[int, Announcement] = field(default_factory=dict)
    #: Nodes that have signed a request on this connection.
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
