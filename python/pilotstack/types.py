"""Values that the package's interfaces take and give. All are immutable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from pilotstack.errors import InvalidArgument

__all__ = [
    "Address",
    "Datagram",
    "JoinRule",
    "SocketAddress",
    "Target",
    "parse_host",
    "parse_target",
]

_ADDRESS = re.compile(r"(\d{1,5}):([0-9A-Fa-f]{4})\.([0-9A-Fa-f]{4})\.([0-9A-Fa-f]{4})", re.ASCII)
_MAX_PORT = 0xFFFF
_MAX_NODE = 0xFFFF_FFFF
#: Digits that a port or node id may have, zeros before it included.
_MAX_DIGITS = 20


@total_ordering
class Address:
    """A 48-bit virtual address: the network and the node in it. Immutable; ordered by both.

    See ``docs/reference/protocol/packet.md#addresses``.

    Args:
        network: 0 to 65,535; 0 is the backbone.
        node: 0 to 2**32 - 1.

    Raises:
        InvalidArgument: a number is out of range.
    """

    # Not a dataclass: its JSON form is its text, and msgspec gives dataclasses one of their own.

    __slots__ = ("network", "node")
    __match_args__ = ("network", "node")

    network: int
    node: int

    def __init__(self, network: int, node: int) -> None:
        numbers = isinstance(network, int) and isinstance(node, int)
        if not (numbers and 0 <= network <= _MAX_PORT and 0 <= node <= _MAX_NODE):
            raise InvalidArgument(f"no such address: network {network}, node {node}")
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "node", node)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}")

    def __reduce__(self) -> tuple[type[Address], tuple[int, int]]:
        return Address, (self.network, self.node)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self.node == other.node and self.network == other.network

    def __lt__(self, other: Address) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return (self.network, self.node) < (other.network, other.node)

    def __hash__(self) -> int:
        return hash((self.network, self.node))

    def __repr__(self) -> str:
        return f"Address(network={self.network}, node={self.node})"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``0:0000.0000.002A``: the network in decimal, then network and node in hex.

        Raises:
            InvalidArgument: the text is anything else.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match[1]) != int(match[2], 16):
            raise InvalidArgument(
                f"not an address: {text!r}", hint="addresses look like 0:0000.0000.002A"
            )
        return cls(int(match[1]), int(match[3] + match[4], 16))

    def pack(self) -> bytes:
        """Six bytes: network, node, big endian."""
        return self.network.to_bytes(2) + self.node.to_bytes(4)

    @classmethod
    def unpack(cls, data: bytes) -> Address:
        """The address of six bytes."""
        return cls(int.from_bytes(data[:2]), int.from_bytes(data[2:6]))

    def __str__(self) -> str:
        node = f"{self.node:08X}"
        return f"{self.network}:{self.network:04X}.{node[:4]}.{node[4:]}"


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """An address and a port of 0 to 65,535."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


#: Whom to dial or send to: ``"agent-b:80"``, ``("agent-b", 80)``, an address and a port.
Target = str | SocketAddress | tuple[Address | str, int]


@dataclass(frozen=True, slots=True, repr=False)
class Datagram:
    """A datagram and where it came from."""

    data: bytes
    source: SocketAddress

    def __repr__(self) -> str:
        # What strangers send does not belong into logs.
        return f"<Datagram of {len(self.data)} bytes from {self.source}>"


#: Who may join a network: everybody, whoever knows its token, whoever is invited.
JoinRule = Literal["open", "token", "invite"]


#: Names of congestion controllers, in the order of their numbers on the daemon's socket.
Congestion = Literal["reno", "cubic", "bbr"]


def parse_target(target: Target) -> tuple[Address | str, int]:
    """Splits ``"agent-b:80"``, ``"0:0000.0000.002A:1000"`` or a pair into host and port.

    Returns:
        The address, or a hostname still to be resolved, and the port.

    Raises:
        InvalidArgument: there is no host, or no port of 1 to 65,535.
    """
    host: object
    port: object
    if isinstance(target, SocketAddress):
        host, port = target.address, target.port
    elif isinstance(target, tuple) and len(target) == 2:
        host, port = target
    elif isinstance(target, str):
        host, _, digits = target.rpartition(":")
        # A longer number cannot be a port, and converting it may take long.
        is_port = digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS
        port = int(digits) if is_port else None
    else:
        raise _no_target(target)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= _MAX_PORT:
        raise _no_target(target)
    if isinstance(host, Address):
        return host, port
    if not isinstance(host, str) or not host:
        raise _no_target(target)
    return parse_host(host), port


def _no_target(target: object) -> InvalidArgument:
    return InvalidArgument(
        f"not a target: {target!r:.100}",
        hint='targets look like "agent-b:80", ("agent-b", 80) or "0:0000.0000.002A:80"',
    )


def parse_host(host: str) -> Address | str:
    """An address, a decimal node id on the backbone, or else a hostname.

    Raises:
        InvalidArgument: the text has a colon and is no address, as ``agent-b:99999``.
    """
    if _ADDRESS.fullmatch(host):
        return Address.parse(host)
    if host.isascii() and host.isdecimal() and len(host) <= _MAX_DIGITS and int(host) <= _MAX_NODE:
        return Address(0, int(host))
    if ":" in host:
        raise InvalidArgument(
            f"neither a name nor an address: {host!r:.100}",
            hint="addresses look like 0:0000.0000.002A, and ports are 1 to 65535",
        )
    return host
