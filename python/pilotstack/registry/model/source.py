"""Connections of requests, and what nodes announce on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


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
