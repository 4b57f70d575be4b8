"""The registry as a pure state machine: no sockets, files or clocks.

:func:`apply` takes a request and gives a reply and the changes that must be durable before the
reply is sent. A change holds the row before it, so that one that cannot be stored is undone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pilotstack.registry import (
    attributes,
    beacons,
    lookups,
    members,
    messages,
    networks,
    recovery,
    registration,
    snapshot,
    trusts,
)
from pilotstack.registry.auth import Denied, Verifier
from pilotstack.registry.call import Call, Outcome, Policy, Source
from pilotstack.registry.creations import Creations
from pilotstack.registry.freshness import Moments
from pilotstack.registry.gate import Neighbours
from pilotstack.registry.guesses import DELAY, Guesses, TooManyGuesses
from pilotstack.registry.reaper import Sweep, reap
from pilotstack.registry.records import Change, Node, encode_change
from pilotstack.registry.tables import Tables
from pilotstack.registry.trusts import waiting_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.call import Handler
    from pilotstack.registry.messages import Message

__all__ = [
    "HANDLERS",
    "READS",
    "Change",
    "Denied",
    "Node",
    "Outcome",
    "Policy",
    "Source",
    "State",
    "apply",
    "encode_change",
    "reap",
    "waiting_for",
]


class State(Tables):
    """All that the registry knows, with the operator's policy."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__()
        self.beacons: dict[int, beacons.Beacon] = {}
        self.sweep = Sweep()
        #: Seconds by which the wall clock is ahead of the registry's own time.
        self.skew = 0.0
        self.neighbours = Neighbours()
        self.guesses = Guesses()
        #: Connections that speak for a node.
        self.speaking: Counter[int] = Counter()
        self.creations = Creations()
        self.moments = Moments()
        #: When the registry was first started.
        self.created = 0
        #: Members of a loaded snapshot that mean nothing to us, and go back into the next.
        self.unknown: dict[str, Any] = {}
        self.unknown_rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.policy = policy or Policy()

    @property
    def policy(self) -> Policy:
        """What the operator decided."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self.verifier = Verifier(policy.verified_signatures)

    def is_live(self, node_id: int) -> bool:
        """Whether a node is registered."""
        node = self.nodes.get(node_id)
        return node is not None and not node.gone_at

    def left(self, source: Source) -> None:
        """A connection ended: it speaks for nobody any more."""
        for node_id in source.proven:
            self.speaking[node_id] -= 1
            if self.speaking[node_id] <= 0:
                del self.speaking[node_id]
        source.proven.clear()
        source.pending.clear()

    def view(self, unstored: Sequence[Change] = ()) -> snapshot.View:
        """The state as it is now, for a snapshot that is written while this goes on.

        Args:
            unstored: changes that are not durable yet, oldest first; they are left out.
        """
        return snapshot.View(self, unstored)

    def snapshot(self) -> dict[str, Any]:
        """The whole state in the shape of the snapshot file (sheet 4.3)."""
        return snapshot.to_dict(self.view())

    @classmethod
    def load(cls, rows: dict[str, Any], now: float) -> State:
        """The state of a snapshot; ``now`` counts as the last time each node was seen.

        Raises:
            ValueError: it is no snapshot.
        """
        state = cls()
        snapshot.load(state, rows, now)
        return state


def apply(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Answers one request and changes ``state`` accordingly.

    Args:
        now: Unix seconds.
    """
    kind = messages.text(message, "type")
    handler = HANDLERS.get(kind)
    if handler is None:
        return Outcome({"type": "error", "error": f'unknown message type: "{kind[:64]}"'})
    call = Call(state, message, source, now)
    try:
        reply = handler(call)
    except Denied as denied:
        changes = _change(state, call.changes(is_refused=True))
        is_guess = bool(call.notes) or isinstance(denied, TooManyGuesses)
        return Outcome(
            {"type": "error", "error": str(denied)},
            changes,
            notes=call.notes,
            delay=DELAY if is_guess else 0.0,
        )
    changes = _change(state, call.changes())
    for node_id in call.settled:
        source.pending.pop(node_id, None)
    reply["type"] = f"{kind}_ok"
    return Outcome(reply, changes, call.wakes, call.notes)


def _change(state: State, changes: tuple[Change, ...]) -> tuple[Change, ...]:
    for change in changes:
        state.put(change.table, change.key, change.after)
    return changes


HANDLERS: Final[dict[str, Handler]] = {
    **registration.HANDLERS,
    **attributes.HANDLERS,
    **lookups.HANDLERS,
    **trusts.HANDLERS,
    **networks.HANDLERS,
    **members.HANDLERS,
    **recovery.HANDLERS,
    **beacons.HANDLERS,
}

#: Requests that change nothing, which a copy of the registry may answer, too.
READS: Final = frozenset(
    {
        *("lookup", "resolve", "punch", "resolve_hostname", "check_trust", "get_polo_score"),
        *("list_networks", "list_nodes", "get_network_policy", "get_expr_policy"),
        *("get_member_role", "get_member_tags", "poll_invites", "get_key_info", "beacon_list"),
    }
)
