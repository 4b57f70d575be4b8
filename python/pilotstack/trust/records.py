"""What a node remembers about those it trusts, and what it must do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack.trust.messages import Kind

# Rows. Times are Unix seconds.


@dataclass(frozen=True, slots=True)
class Trusted:
    """A peer whose trust and ours are mutual."""

    node_id: int
    #: Empty until the first tunnel shows it, for rows of other programs.
    public_key: bytes
    approved_at: int
    #: Both asked, or the peer granted what we asked for.
    mutual: bool
    #: Shared network that stood for an approval, or 0.
    network: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for the operator. The justification is text of a stranger."""

    node_id: int
    public_key: bytes
    justification: str
    received_at: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request of ours that was not answered."""

    node_id: int
    sent_at: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """The end of a trust: nothing is approved by itself before ``until``, and no approval from
    before ``at`` counts."""

    node_id: int
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What the registry says about a peer."""

    public_key: bytes
    networks: frozenset[int] = frozenset()


# Effects, to be carried out in order


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the rows durable before anything else happens."""


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the peer; a request that cannot be delivered, or might be taken for a replay
    (``is_repeat``), goes through the registry too."""

    peer: int
    kind: Kind
    timestamp: int
    text: str = ""
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer the peer's request at the registry."""

    peer: int
    accept: bool


@dataclass(frozen=True, slots=True)
class ReportTrust:
    """Tell the registry that we trust the peer."""

    peer: int


@dataclass(frozen=True, slots=True)
class RevokeTrust:
    """Tell the registry that we do not, or no longer."""

    peer: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the registry whether the pair is active, reporting our side if it is not known."""

    peer: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Let the peer in from now on."""

    peer: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Reset the peer's streams, drop its tunnel and let it in no more."""

    peer: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that operators and waiting programs may want to know."""

    name: str
    peer: int
    reason: str = ""


Effect = Persist | Send | Respond | ReportTrust | RevokeTrust | Confirm | Admit | Dismiss | Event
Effects = tuple[Effect, ...]
