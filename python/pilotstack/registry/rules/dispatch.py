"""The registry as a pure state machine: no sockets, files or clocks.

:func:`apply` takes a request and gives a reply and the changes that must be durable before the
reply is sent. A change holds the row before it, so that one that cannot be stored is undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.guesses import DELAY, TooManyGuesses
from pilotstack.registry.protocol import values
from pilotstack.registry.rules import (
    attributes,
    beacons,
    keys,
    lookups,
    members,
    networks,
    registration,
    trust,
)
from pilotstack.registry.rules.call import Call, Outcome

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.model.source import Source
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Handler

HANDLERS: Final[dict[str, Handler]] = {
    **registration.HANDLERS,
    **attributes.HANDLERS,
    **lookups.HANDLERS,
    **trust.HANDLERS,
    **networks.HANDLERS,
    **members.HANDLERS,
    **keys.HANDLERS,
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


def apply(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Answers one request and changes ``state`` accordingly.

    Args:
        now: Unix seconds.
    """
    kind = values.text(message, "type")
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
