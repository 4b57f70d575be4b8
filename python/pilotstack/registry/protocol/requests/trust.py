"""Requests about trust pairs, and the relay of handshakes."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import (
    Asked,
    Count,
    Long,
    NetworkId,
    NodeId,
    R,
    Reply,
    Request,
)

#: Bytes of a justification.
MAX_JUSTIFICATION: Final = 1024

_SIGNED = frozenset({Code.NODE_NOT_FOUND, Code.SIGNATURE})


class AboutPair(Request[R], frozen=True, kw_only=True):
    """A request of a node about another."""

    node_id: NodeId = 0
    peer_id: NodeId = 0

    def challenge(self) -> str:
        """``TYPE:NODE:PEER``."""
        return f"{self.__struct_config__.tag}:{self.node_id}:{self.peer_id}"


class ReportTrustReply(Reply, frozen=True, tag="report_trust_ok"):
    """Done."""


class ReportTrust(AboutPair[ReportTrustReply], frozen=True, kw_only=True, tag="report_trust"):
    """One side's consent."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.DENIED, Code.INVALID}


class RevokeTrustReply(Reply, frozen=True, tag="revoke_trust_ok"):
    """Done."""


class RevokeTrust(AboutPair[RevokeTrustReply], frozen=True, kw_only=True, tag="revoke_trust"):
    """Ends the consent of both sides."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.NO_TRUST}


class CheckTrustReply(Reply, frozen=True, tag="check_trust_ok"):
    """Whether a connection between the two is welcome."""

    trusted: bool
    #: Whether the node, and the peer, say that they trust the other; for the node itself.
    claimed: bool | UnsetType = UNSET
    granted: bool | UnsetType = UNSET


class CheckTrust(Asked[CheckTrustReply], frozen=True, kw_only=True, tag="check_trust"):
    """Asks about a pair; only the two are told."""

    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.DENIED}

    node_id: NodeId = 0
    peer_id: NodeId = 0

    def challenge(self) -> str:
        """``check_trust:NODE:PEER``."""
        return f"check_trust:{self.node_id}:{self.peer_id}"


class RequestHandshakeReply(Reply, frozen=True, tag="request_handshake_ok"):
    """It waits in the inbox."""

    status: str


class RequestHandshake(
    Request[RequestHandshakeReply], frozen=True, kw_only=True, tag="request_handshake"
):
    """Asks a node for its trust."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.ALREADY, Code.FULL, Code.INVALID}

    from_node_id: NodeId = 0
    to_node_id: NodeId = 0
    justification: str = ""

    def challenge(self) -> str:
        """``handshake:FROM:TO``."""
        return f"handshake:{self.from_node_id}:{self.to_node_id}"


class WaitingRequest(msgspec.Struct, frozen=True):
    """A node asks for trust."""

    from_node_id: NodeId
    justification: str
    timestamp: Long


class WaitingResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node has answered, or ended a trust."""

    from_node_id: NodeId
    accept: bool
    timestamp: Long
    revoked: bool = False


class Removal(msgspec.Struct, frozen=True):
    """A node is no member of a network any more; with network 0 it was banned."""

    network_id: NetworkId
    node_id: NodeId


class PollHandshakesReply(Reply, frozen=True, tag="poll_handshakes_ok"):
    """What waits for a node."""

    requests: tuple[WaitingRequest, ...]
    responses: tuple[WaitingResponse, ...]
    #: The registry holds polls.
    waited: bool = False
    #: Invitations that wait.
    invites: Count | UnsetType = UNSET
    #: Members that left networks of the node, itself included, since it was last told.
    removals: tuple[Removal, ...] | UnsetType = UNSET


class PollHandshakes(
    Request[PollHandshakesReply], frozen=True, kw_only=True, tag="poll_handshakes"
):
    """Takes what waits for a node."""

    errors: ClassVar[frozenset[Code]] = _SIGNED

    node_id: NodeId = 0
    #: Seconds for which the reply may be held back while there is nothing in it.
    wait: Count | UnsetType = UNSET

    def challenge(self) -> str:
        """``poll_handshakes:NODE``."""
        return f"poll_handshakes:{self.node_id}"


class RespondHandshakeReply(Reply, frozen=True, tag="respond_handshake_ok"):
    """The answer."""

    accept: bool
    peer_id: NodeId


class RespondHandshake(
    Request[RespondHandshakeReply], frozen=True, kw_only=True, tag="respond_handshake"
):
    """Answers a request."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.INVALID}

    node_id: NodeId = 0
    peer_id: NodeId = 0
    accept: bool = False

    def challenge(self) -> str:
        """``respond:NODE:PEER``."""
        return f"respond:{self.node_id}:{self.peer_id}"


REQUESTS: Final = (
    ReportTrust,
    RevokeTrust,
    CheckTrust,
    RequestHandshake,
    PollHandshakes,
    RespondHandshake,
)
