"""The two messages of a beacon that are needed here (``docs/reference/protocol/beacon.md``)."""

from __future__ import annotations

import ipaddress
import os
import struct
from typing import Final, NamedTuple

_DISCOVER: Final = 0x01
_DISCOVER_REPLY: Final = 0x02
#: Code, node, and a key: as long as what a node sends, so that the reply is never longer.
DISCOVER_LEN: Final = 37
_HEAD: Final = struct.Struct("!BI")
_PORT: Final = struct.Struct("!H")
_ADDRESS_LENGTHS: Final = (4, 16)


class Endpoint(NamedTuple):
    """An IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def discover(length: int = DISCOVER_LEN) -> bytes:
    """A question for our own endpoint by nobody (node 0), filled up with random bytes."""
    head = _HEAD.pack(_DISCOVER, 0)
    return head + os.urandom(max(length, DISCOVER_LEN) - len(head))


def parse_reply(data: bytes) -> Endpoint | None:
    """The endpoint in a DiscoverReply; ``None`` for anything else. What follows it is ignored."""
    if len(data) < 1 + 1 or data[0] != _DISCOVER_REPLY or data[1] not in _ADDRESS_LENGTHS:
        return None
    end = 2 + data[1]
    if len(data) < end + _PORT.size:
        return None
    address = ipaddress.ip_address(data[2:end])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    port = int(_PORT.unpack_from(data, end)[0])
    return None if not port or address.is_unspecified else Endpoint(str(address), port)
