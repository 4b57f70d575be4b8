"""Trust records (rows) and the effects of the trust state machine. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack.trust.messages import Kind

# Rows. Times are Unix seconds.


@dataclass(frozen=True, slots=True)
class Trusted:
    """A trusted peer."""

    node_id: int
    #: Empty in rows of other programs until the first tunnel proves the key.
    public_key: bytes
    approved_at: int
    #: Both sides asked, or the peer approved our request.
    mutual: bool
    #: Shared network that replaced an approval, or 0.
    network: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A request awaiting the operator's decision. The justification is untrusted text."""

    node_id: int
    public_key: bytes
    justification: str
    received_at: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An unanswered request of ours."""

    node_id: int
    sent_at: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation: nothing is approved automatically before ``until``, and approvals from before
    ``at`` are ignored.
    """

    node_id: int
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The registry record of a peer."""

    public_key: bytes
    networks: frozenset[int] = frozenset()


# Effects, performed in order


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the rows durable before the next effect."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the peer. A request that cannot be delivered, or may be dropped as a replay
    (``is_repeat``), is also relayed by the registry.
    """

    peer: int
    kind: Kind
    timestamp: int
    text: str = ""
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Respond:
    """Respond to the peer's request at the registry."""

    peer: int
    accept: bool


@dataclass(frozen=True, slots=True)
class ReportTrust:
    """Report our consent to the registry."""

    peer: int


@dataclass(frozen=True, slots=True)
class RevokeTrust:
    """Revoke our consent at the registry."""

    peer: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the registry whether the trust pair is active; report our consent if it is missing."""

    peer: int


@dataclass(frozen=True, slots=True)
class AskPair:
    """Ask the registry whether it has the consent of both sides, which it may keep longer than we
    do; report nothing."""

    peer: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Admit the peer."""

    peer: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Reset the peer's streams, drop its tunnel and no longer admit it."""

    peer: int


@dataclass(frozen=True, slots=True)
class Event:
    """An event for operators and waiting programs."""

    name: str
    peer: int
    reason: str = ""


Effect = (
    Persist
    | Send
    | Respond
    | ReportTrust
    | RevokeTrust
    | Confirm
    | AskPair
    | Admit
    | Dismiss
    | Event
)
Effects = tuple[Effect, ...]
