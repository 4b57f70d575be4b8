"""Requests for who is where."""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import (
    Asked,
    NetworkId,
    NodeId,
    Reply,
    Request,
    Seconds,
)


class LookupReply(Reply, frozen=True, tag="lookup_ok"):
    """A node, in the shape of both generations of registries at once."""

    node_id: NodeId
    address: str
    #: Those that may be told.
    networks: tuple[NetworkId, ...]
    #: 32 bytes in base64.
    public_key: str
    public: bool
    polo_score: int
    key_generation: int
    hostname: str = ""
    tags: tuple[str, ...] = ()
    task_exec: bool = False
    relay_only: bool = False
    version: str = ""
    #: Unix seconds; for those who may know when the node was there.
    last_seen_unix: Seconds | UnsetType = UNSET
    offline: bool = False
    #: The endpoint of a public node, by the names of both generations.
    real_addr: str | UnsetType = UNSET
    endpoint: str | UnsetType = UNSET
    #: Its host candidates, for a requester that proved who it is and may know the endpoint.
    lan_addrs: tuple[str, ...] | UnsetType = UNSET


class Lookup(Asked[LookupReply], frozen=True, kw_only=True, tag="lookup"):
    """Asks for key, name and what else may be told of a node, but a private one's endpoint."""

    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = frozenset({Code.NODE_NOT_FOUND})

    node_id: NodeId = 0

    def challenge(self) -> str:
        """``lookup:REQUESTER:NODE``."""
        return f"lookup:{self.requester_id}:{self.node_id}"


class ResolveReply(Reply, frozen=True, tag="resolve_ok"):
    """An endpoint."""

    node_id: NodeId
    #: Of a node that takes relayed frames only: a beacon's, or empty.
    real_addr: str
    lan_addrs: tuple[str, ...] = ()
    relay_only: bool = False
    key_age_days: int | UnsetType = UNSET


class Resolve(Request[ResolveReply], frozen=True, kw_only=True, tag="resolve"):
    """Asks for a node's endpoint, which those may know whom it trusts or shares a network with."""

    is_read: ClassVar[bool] = True
    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = frozenset(
        {Code.DENIED, Code.NODE_NOT_FOUND, Code.PRIVATE, Code.SIGNATURE}
    )

    requester_id: NodeId = 0
    node_id: NodeId = 0

    def challenge(self) -> str:
        """``resolve:REQUESTER:NODE``."""
        return f"resolve:{self.requester_id}:{self.node_id}"


class PunchReply(Reply, frozen=True, tag="punch_ok"):
    """Both endpoints."""

    node_a: NodeId
    node_a_addr: str
    node_b: NodeId
    node_b_addr: str


class Punch(Request[PunchReply], frozen=True, kw_only=True, tag="punch"):
    """Asks for the endpoints of two nodes, of which the requester is one."""

    is_read: ClassVar[bool] = True
    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = Resolve.errors

    requester_id: NodeId = 0
    node_a: NodeId = 0
    node_b: NodeId = 0

    def challenge(self) -> str:
        """``punch:NODE_A:NODE_B``."""
        return f"punch:{self.node_a}:{self.node_b}"


class ResolveHostnameReply(Reply, frozen=True, tag="resolve_hostname_ok"):
    """A node's id and name."""

    node_id: NodeId
    address: str
    public: bool
    hostname: str
    #: Unix seconds; for those who may know when the node was there.
    last_seen_unix: Seconds | UnsetType = UNSET


class ResolveHostname(
    Asked[ResolveHostnameReply], frozen=True, kw_only=True, tag="resolve_hostname"
):
    """Asks for the id behind a name, never the endpoint. Not all clients say who asks."""

    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = frozenset(
        {Code.INVALID, Code.NAME_NOT_FOUND, Code.NODE_NOT_FOUND}
    )

    hostname: str = ""

    def challenge(self) -> str:
        """``resolve_hostname:REQUESTER``."""
        return f"resolve_hostname:{self.requester_id}"


REQUESTS: Final = (Lookup, Resolve, Punch, ResolveHostname)
