"""Child processes that store changes, report what is durable, and are killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.storage import journal, snapshot
from pilotstack.registry.storage.journal import FileStore
from tests.support.registry import apply, identity, key_text

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from pilotstack.registry.model.state import State

NOW = 1_800_000_000.0
HOME = Source("198.51.100.1", 4000)


def write_until_killed(path: Path, acknowledge: Connection) -> None:
    """Loads the store and changes it for ever: each turn registers a node that makes a network,
    and ends an old network. The number of each turn is told when it is durable, and not before.

    Folds come every few kilobytes, so that being killed hits them, too.
    """
    journal.FOLD_AT = 6 << 10  # type: ignore[misc]
    journal.FOLD_SHARE = 0.0  # type: ignore[misc]
    store = FileStore(path)
    state = store.load(NOW)
    state.policy = Policy(admin_token="root")
    turn = state.next_node
    while True:
        for request in turn_of(turn):
            outcome = apply(state, request, HOME, NOW)
            assert "error" not in outcome.reply, outcome.reply
            store.append(outcome.changes)
        acknowledge.send(turn)
        if store.wants_fold():
            store.rotate()
            store.fold(snapshot.View(state))
        turn += 1


def turn_of(turn: int) -> list[dict[str, Any]]:
    """What one turn asks for."""
    requests: list[dict[str, Any]] = [
        {"type": "register", "public_key": key_text(f"k{turn}"), "hostname": f"h{turn}"},
        {
            "type": "create_network",
            "node_id": turn,
            "name": f"n{turn}",
            "admin_token": "root",
        },
    ]
    if turn > KEPT:
        ended = {"type": "delete_network", "network_id": turn - KEPT, "admin_token": "root"}
        requests.append(ended)
    return requests


#: Networks that are not ended yet.
KEPT = 20


def check(state: State, acknowledged: int) -> None:
    """That everything up to a turn is there, and nothing is there by half."""
    last = state.next_node - 1
    assert last >= acknowledged, f"turn {acknowledged} was acknowledged, {last} is the last"
    assert sorted(state.nodes) == list(range(1, last + 1))
    for turn, node in state.nodes.items():
        assert node.public_key == identity(f"k{turn}").public_key
        assert state.by_hostname[f"h{turn}"] == turn
    # Each network has its owner, each owner his network: one request made both.
    owned = {(network_id, network_id) for network_id in state.networks}
    assert {key for key, _ in state.members.pairs()} == owned
    wanted = set(range(max(1, acknowledged - KEPT + 1), acknowledged + 1))
    missing = wanted - set(state.networks) - {last - KEPT}
    assert not missing, f"networks {missing} were acknowledged"
    assert all(network_id > acknowledged - KEPT for network_id in state.networks)


def finish_turn(state: State, path: Path) -> None:
    """Does what the last turn left undone, so that turns and ids stay in step."""
    store = FileStore(path)
    store.load(NOW)
    last = state.next_node - 1
    if last > 0:
        state.policy = Policy(admin_token="root")
        for request in turn_of(last):
            changes = apply(state, request, HOME, NOW).changes
            if changes:
                store.append(changes)
    store.close()
