"""Values that the package's interfaces take and give. All are immutable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, Any, Literal

from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Address",
    "ConnectionInfo",
    "Datagram",
    "Info",
    "Invite",
    "JoinRule",
    "Member",
    "NetworkInfo",
    "PeerInfo",
    "PendingHandshake",
    "Resolved",
    "SocketAddress",
    "Target",
    "TrustedPeer",
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


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name stands for."""

    hostname: str
    node_id: int
    address: Address
    public: bool


@dataclass(frozen=True, slots=True)
class PendingHandshake:
    """A request for trust that waits for an answer.

    ``justification`` is printable text of a stranger, not to be acted upon; ``public_key`` is
    base64, ``received_at`` in Unix seconds.
    """

    node_id: int
    public_key: str
    justification: str
    received_at: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PendingHandshake:
        """Reads a row of the daemon's answer."""
        return cls(
            int(row["node_id"]),
            str(row.get("public_key", "")),
            str(row.get("justification", "")),
            int(row.get("received_at", 0)),
        )


@dataclass(frozen=True, slots=True)
class TrustedPeer:
    """A peer in mutual trust.

    ``mutual`` means that both asked, or that the peer granted what this node asked for; ``network``
    is the shared network that stood for an approval, or 0. ``public_key`` is base64,
    ``approved_at`` in Unix seconds.
    """

    node_id: int
    public_key: str
    approved_at: int
    mutual: bool
    network: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TrustedPeer:
        """Reads a row of the daemon's answer."""
        return cls(
            int(row["node_id"]),
            str(row.get("public_key", "")),
            int(row.get("approved_at", 0)),
            bool(row.get("mutual")),
            int(row.get("network", 0)),
        )


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A node that the daemon exchanged keys with, or tries to."""

    node_id: int
    endpoint: str
    encrypted: bool
    authenticated: bool
    relay: bool

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PeerInfo:
        """Reads a row of ``peer_list``."""
        return cls(
            node_id=int(row["node_id"]),
            endpoint=str(row.get("endpoint", "")),
            encrypted=bool(row.get("encrypted")),
            authenticated=bool(row.get("authenticated")),
            relay=bool(row.get("relay")),
        )


#: Who may join a network: everybody, whoever knows its token, whoever is invited.
JoinRule = Literal["open", "token", "invite"]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network of agents (``docs/how-to/networks.md``)."""

    id: int
    name: str
    join_rule: str
    #: How many members it has; -1 if the registry does not tell.
    members: int
    enterprise: bool

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> NetworkInfo:
        """Reads a row of ``networks``."""
        return cls(
            id=int(row["id"]),
            name=str(row.get("name", "")),
            join_rule=str(row.get("join_rule", "")),
            members=int(row.get("members", -1)),
            enterprise=bool(row.get("enterprise")),
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A node in a network; its address there can be dialled by other members."""

    node_id: int
    address: Address
    hostname: str
    #: ``owner``, ``admin`` or ``member``; empty if the registry does not tell.
    role: str
    is_online: bool

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Member:
        """Reads a row of ``nodes``."""
        return cls(
            node_id=int(row["node_id"]),
            address=Address.parse(str(row["address"])),
            hostname=str(row.get("hostname", "")),
            role=str(row.get("role", "")),
            is_online=not row.get("offline"),
        )


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation to a network that waits for an answer."""

    network_id: int
    inviter_id: int
    #: Unix seconds.
    timestamp: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Invite:
        """Reads a row of ``invites``."""
        return cls(
            network_id=int(row["network_id"]),
            inviter_id=int(row.get("inviter_id", 0)),
            timestamp=int(row.get("timestamp", 0)),
        )


#: Names of congestion controllers.
Congestion = Literal["reno", "cubic", "bbr"]


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A connection of the daemon. Windows, buffers and segments are octets, rates octets per
    second, round trips milliseconds."""

    id: int
    local_port: int
    remote: SocketAddress
    state: str
    bytes_sent: int
    bytes_recv: int
    segs_sent: int
    segs_recv: int
    retransmits: int
    fast_retx: int
    loss_probes: int
    spurious_retx: int
    dup_acks: int
    sack_sent: int
    sack_recv: int
    cong_win: int
    ssthresh: int
    congestion: str
    pacing_rate: int
    delivery_rate: int
    in_flight: int
    srtt_ms: float
    rttvar_ms: float
    min_rtt_ms: float
    unacked: int
    peer_recv_win: int
    recv_win: int
    ooo_buf: int
    #: The largest segment that leaves; follows what the path carries (RFC 8899).
    max_segment: int
    in_recovery: bool

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ConnectionInfo:
        """Reads a row of ``conn_list``."""
        remote = SocketAddress(Address.parse(row["remote_addr"]), int(row["remote_port"]))
        counts = {
            name: int(row.get(name, 0))
            for name in cls.__slots__
            if name not in {"remote", "state", "congestion", "in_recovery"}
            and not name.endswith("_ms")
        }
        return cls(
            remote=remote,
            state=str(row["state"]),
            congestion=str(row.get("congestion", "")),
            min_rtt_ms=float(row.get("min_rtt_ms", 0)),
            srtt_ms=float(row.get("srtt_ms", 0)),
            rttvar_ms=float(row.get("rttvar_ms", 0)),
            in_recovery=bool(row.get("in_recovery")),
            **counts,
        )


@dataclass(frozen=True, slots=True)
class Info:
    """The daemon's state. Sizes are octets, times seconds."""

    node_id: int
    address: Address
    hostname: str
    version: str
    uptime_secs: float
    public_key: str
    encrypt: bool
    connections: int
    ports: int
    peers: int
    encrypted_peers: int
    authenticated_peers: int
    bytes_sent: int
    bytes_recv: int
    pkts_sent: int
    pkts_recv: int
    peer_list: tuple[PeerInfo, ...]
    conn_list: tuple[ConnectionInfo, ...]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Info:
        """Reads the answer to Info."""
        counts = {
            name: int(row.get(name, 0))
            for name in (
                *("connections", "ports", "peers", "encrypted_peers", "authenticated_peers"),
                *("bytes_sent", "bytes_recv", "pkts_sent", "pkts_recv"),
            )
        }
        return cls(
            node_id=int(row["node_id"]),
            address=Address.parse(row["address"]),
            hostname=str(row.get("hostname", "")),
            version=str(row.get("version", "")),
            uptime_secs=float(row.get("uptime_secs", 0)),
            public_key=str(row.get("public_key", "")),
            encrypt=bool(row.get("encrypt")),
            peer_list=tuple(PeerInfo.from_json(peer) for peer in row.get("peer_list") or ()),
            conn_list=tuple(ConnectionInfo.from_json(conn) for conn in row.get("conn_list") or ()),
            **counts,
        )


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
