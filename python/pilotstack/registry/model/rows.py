"""One immutable row type per table, and changes of rows.

Members have the names of the snapshot file (docs/reference/registry-files.md) where it has them, so
journal, replication stream and snapshot look alike. Times are whole Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

#: An id, or two parts of which the first groups rows (a network, or the node that polls).
Key = int | tuple[int, int] | tuple[int, str]


class Node(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "node_id": "id",
        "endpoint": "real_addr",
        "is_signed": "signed",
        "is_unconfirmed": "unconfirmed",
        "is_ephemeral": "ephemeral",
        "is_banned": "banned",
    },
):
    """A node. The time it was last seen is not part of it, since it is not durable."""

    node_id: int
    public_key: bytes
    endpoint: str = ""
    hostname: str = ""
    owner: str = ""
    version: str = ""
    public: bool = False
    task_exec: bool = False
    relay_only: bool = False
    #: A registration was signed; unsigned ones may not change the node any more.
    is_signed: bool = False
    #: It has not signed anything yet; its id expires unless it does.
    is_unconfirmed: bool = False
    #: It leaves nothing behind when it stops, or falls silent.
    is_ephemeral: bool = False
    #: The operator has taken it off the network: its key may not register.
    is_banned: bool = False
    polo_score: int = 0
    tags: tuple[str, ...] = ()
    lan_addrs: tuple[str, ...] = ()
    #: When its key was first registered.
    registered: int = 0
    #: When it deregistered, or 0; id and key stay bound to each other.
    gone_at: int = 0

    @property
    def address(self) -> str:
        """The address on the backbone, as :class:`~pilotstack.types.Address` writes it."""
        node_id = self.node_id
        return f"0:0000.{node_id >> 16:04X}.{node_id & 0xFFFF:04X}"


class NodeEntry(
    Node,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={
        "node_id": "id",
        "endpoint": "real_addr",
        "is_signed": "signed",
        "is_unconfirmed": "unconfirmed",
        "is_ephemeral": "ephemeral",
        "is_banned": "banned",
    },
):
    """A node in a snapshot that has no unknown members."""

    networks: tuple[int, ...] = ()
    last_seen: str = ""


class Network(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    kw_only=True,
    rename={"network_id": "id"},
):
    """A network other than the backbone."""

    network_id: int
    name: str
    #: ``open``, ``token`` or ``invite``.
    join_rule: str = "open"
    created: int = 0
    #: Salted hashes; empty if there is no such token.
    token_hash: str = ""
    #: When the token to join ends, by the registry's time; 0 is never.
    token_expires: int = 0
    admin_token_hash: str = ""
    enterprise: bool = False
    #: 0 is no limit.
    max_members: int = 0
    allowed_ports: tuple[int, ...] = ()
    description: str = ""
    #: JSON texts that daemons interpret; empty if there are none.
    rules: str = ""
    expr_policy: str = ""


class Retired(msgspec.Struct, frozen=True, gc=False):
    """A deleted network; its key is the id."""

    at: int


class Member(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A node's place in a network; its key is (network, node)."""

    #: ``owner``, ``admin`` or ``member``.
    role: str = "member"
    tags: tuple[str, ...] = ()


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One node trusts another; its key is (from, to). Both directions make a pair."""

    created: int


class Request(msgspec.Struct, frozen=True, gc=False):
    """A handshake that waits for an answer; its key is (to, from)."""

    justification: str
    timestamp: int


class Response(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An answer that waits for the node that asked; its key is (to, from). With ``revoked``, the
    news that mutual trust has ended."""

    accept: bool
    timestamp: int
    revoked: bool = False


class Invite(msgspec.Struct, frozen=True, gc=False):
    """An invitation; its key is (node, network)."""

    inviter_id: int
    timestamp: int


class Rotation(msgspec.Struct, frozen=True, gc=False):
    """A signature that was used and may not be used again; its key is (node, digest)."""

    timestamp: int


class KeyInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The history of a node's key, if it has one."""

    rotated: int = 0
    rotations: int = 0
    #: 0 is never.
    expires: int = 0


class Recovery(msgspec.Struct, frozen=True, gc=False):
    """The salted hash of the commitment to a recovery secret."""

    commitment_hash: str


Row = (
    Node
    | Network
    | Retired
    | Member
    | Claim
    | Request
    | Response
    | Invite
    | Rotation
    | KeyInfo
    | Recovery
)

ROW_TYPES: Final[dict[str, type[Row]]] = {
    "nodes": Node,
    "networks": Network,
    "retired": Retired,
    "members": Member,
    "claims": Claim,
    "requests": Request,
    "responses": Response,
    "invites": Invite,
    "rotations": Rotation,
    "keys": KeyInfo,
    "recoveries": Recovery,
}


@dataclass(frozen=True, slots=True)
class Change:
    """A row before and after; ``None`` where there was none, or is none any more."""

    table: str
    key: Key
    before: Row | None
    after: Row | None


def encode_change(change: Change) -> dict[str, object]:
    """A line of the journal and an entry of a replication stream, for :mod:`msgspec` to encode."""
    return {"t": change.table, "k": change.key, "v": change.after}


def decode_change(row: dict[str, object]) -> tuple[str, Key, Row | None]:
    """Table, key and row of what :func:`encode_change` gave.

    Raises:
        ValueError: it is no such thing.
    """
    table = row.get("t")
    kind = ROW_TYPES.get(table) if isinstance(table, str) else None
    if kind is None or not isinstance(table, str):
        raise ValueError(f"no table {table!r}")
    value = row.get("v")
    after: Row | None = None if value is None else msgspec.convert(value, kind)
    key = decode_key(row.get("k"))
    if isinstance(after, Node) and (after.node_id != key or not after.node_id):
        raise ValueError(f"node {after.node_id} under key {key}")
    if isinstance(after, Network) and after.network_id != key:
        raise ValueError(f"network {after.network_id} under key {key}")
    return table, key, after


def decode_key(value: object) -> Key:
    """A key as JSON has it: a number, or a list of two.

    Raises:
        ValueError: it is neither.
    """
    match value:
        case bool():
            pass
        case int() if 0 <= value < 1 << 32:
            return value
        case [int() as first, int() as second]:
            return (first, second)
        case [int() as first, str() as text]:
            return (first, text)
    raise ValueError(f"no key: {value!r}")
