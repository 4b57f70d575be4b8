"""Expires silent nodes and stale rows.

Silent nodes become offline and keep everything. Ephemeral ones, ids that were not confirmed,
requests and invitations that were not answered, and consents that were not returned are deleted. A
pass over all rows is spread over many calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.rows import Change
from pilotstack.registry.rules import removal
from pilotstack.registry.rules.trust import CLAIM_TTL, INBOX_TTL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.registry.model.rows import Key, Node, Row
    from pilotstack.registry.model.state import State

#: Seconds in which a new node must sign a request to keep its id. First-generation daemons sign
#: their first heartbeat, 30 seconds after registration.
UNCONFIRMED_TTL: Final = 600.0
#: Seconds of silence after which an ephemeral node is deleted if no connection speaks for it, and
#: if one does, which may be dead. Heartbeats come every 30.
EPHEMERAL_TTL: Final = 45.0
EPHEMERAL_SILENT: Final = 120.0
#: Seconds between two calls that mean a clock jump or a suspended process. Nodes could not be heard
#: meanwhile, so all get a period of grace.
JUMP: Final = 60.0
#: Interval of passes, in seconds.
PASS_EVERY: Final = 10.0


def reap(state: State, now: float, limit: int = 10_000) -> tuple[Change, ...]:
    """Does a part of a pass; to be called about every second.

    Args:
        limit: rows to check.

    Returns:
        Changes that were made, to be stored.
    """
    sweep = state.sweep
    if not 0 <= now - sweep.last_call <= JUMP:
        sweep.grace_from = now
    sweep.last_call = now
    changes: list[Change] = []
    for _ in range(limit):
        entry = next(sweep.waiting, None)
        if entry is None:
            if 0 <= now - sweep.last_pass < PASS_EVERY:
                break
            sweep.last_pass = now
            sweep.waiting = _entries(state)
            entry = next(sweep.waiting, None)
            if entry is None:
                break
        table, key = entry
        row = state.row(table, key)
        if row is not None and _is_over(state, table, key, row, now):
            changes += _delete(state, table, key)
    return tuple(changes)


def _delete(state: State, table: str, key: Key) -> list[Change]:
    """Deletes a row; of an ephemeral node, everything that belongs to it."""
    rows = [(table, key)]
    if table == "nodes":
        assert isinstance(key, int)
        if state.nodes[key].is_ephemeral:
            rows = list(removal.rows_of(state, key))
    changes = [Change(each, row_key, state.row(each, row_key), None) for each, row_key in rows]
    for change in changes:
        state.put(change.table, change.key, None)
    return changes


def _entries(state: State) -> Iterator[tuple[str, Key]]:
    """All rows that can expire; they may change meanwhile."""
    for node_id in list(state.nodes):
        yield "nodes", node_id
    for table in ("claims", "requests", "responses", "invites"):
        for first in list(state.tables[table].groups):
            for second in list(state.tables[table].of(first)):
                yield table, (first, second)


def _is_over(state: State, table: str, key: Key, row: Row, now: float) -> bool:
    """Whether a row has expired; also updates which nodes are offline."""
    if table == "nodes":
        return _is_node_over(state, row, now)  # type: ignore[arg-type]
    if table == "claims":
        assert isinstance(key, tuple)
        is_pair = (int(key[1]), key[0]) in state.claims
        return not is_pair and now - row.created > CLAIM_TTL  # type: ignore[union-attr]
    if table == "responses":
        assert isinstance(key, tuple)
        if state.deliveries.is_over(table, key[0], int(key[1]), now):
            return True
    return now - row.timestamp > INBOX_TTL  # type: ignore[union-attr]


def _is_node_over(state: State, node: Node, now: float) -> bool:
    if node.gone_at:
        return False
    node_id = node.node_id
    seen = min(state.seen.setdefault(node_id, now), now)
    silence = now - max(seen, state.sweep.grace_from)
    if silence > state.policy.stale_after:
        state.offline.add(node_id)
    if node.is_ephemeral:
        is_connected = node_id in state.speaking
        return silence > (EPHEMERAL_SILENT if is_connected else EPHEMERAL_TTL)
    return node.is_unconfirmed and silence > UNCONFIRMED_TTL
