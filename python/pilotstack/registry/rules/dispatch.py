"""The registry as a pure state machine: no sockets, files or clocks.

:func:`apply` takes a request and returns a reply and the changes that must be durable before the
reply is sent. A change holds the row before it, so that one that cannot be stored is undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.guesses import DELAY, TooManyGuesses
from pilotstack.registry.protocol.codec import Unknown
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.base import Refusal, name_of
from pilotstack.registry.rules import (
    attributes,
    bans,
    beacons,
    keys,
    lookups,
    members,
    networks,
    policies,
    registration,
    trust,
)
from pilotstack.registry.rules.call import Call, Outcome

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.model.source import Source
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.rules.call import Handlers

HANDLERS: Final[Handlers] = {
    **registration.HANDLERS,
    **attributes.HANDLERS,
    **lookups.HANDLERS,
    **trust.HANDLERS,
    **networks.HANDLERS,
    **members.HANDLERS,
    **policies.HANDLERS,
    **keys.HANDLERS,
    **bans.HANDLERS,
    **beacons.HANDLERS,
}


def apply(state: State, request: Request[Reply], source: Source, now: float) -> Outcome:
    """Answers a request and applies its changes to ``state``.

    Args:
        now: the registry's time, in seconds.
    """
    handler = HANDLERS.get(type(request))
    if handler is None:
        name = request.kind if isinstance(request, Unknown) else name_of(type(request))
        text = f'unknown message type: "{name[:64]}"'
        return Outcome(Refusal(error=text, code=Code.UNKNOWN_TYPE))
    call = Call(state, request, source, now)
    try:
        reply = handler(call)
    except Denied as denied:
        changes = _change(state, call.changes(is_refused=True))
        is_guess = bool(call.wrong_secrets) or isinstance(denied, TooManyGuesses)
        return Outcome(
            Refusal(error=str(denied), code=denied.code),
            changes,
            wrong_secrets=call.wrong_secrets,
            delay=DELAY if is_guess else 0.0,
        )
    changes = _change(state, call.changes())
    for node_id in call.settled:
        source.pending.pop(node_id, None)
    return Outcome(reply, changes, call.wakes, call.wrong_secrets)


def _change(state: State, changes: tuple[Change, ...]) -> tuple[Change, ...]:
    for change in changes:
        state.put(change.table, change.key, change.after)
    return changes
