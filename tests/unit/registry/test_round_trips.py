"""After any requests, journal, snapshot and replication stream restore the same state, and undoing
all changes restores the first one."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.registry import World, key_text, snapshot_of

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import encode_change
from pilotstack.registry.model.state import State
from pilotstack.registry.rules.reaper import reap
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.journal import FileStore

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.model.tables import Tables

NAMES = [f"n{number}" for number in range(5)]
NETWORKS = ["red", "green", "blue"]

names = st.sampled_from(NAMES)
numbers = st.integers(1, 6)
#: A request: who, what, and its members; signed by who it is about more often than not.
requests = st.tuples(
    names,
    st.sampled_from(
        [
            *("register", "register", "heartbeat", "deregister", "set_hostname", "set_visibility"),
            *("set_tags", "set_task_exec", "report_trust", "revoke_trust", "request_handshake"),
            *("poll_handshakes", "respond_handshake", "create_network", "join_network"),
            *("leave_network", "delete_network", "rename_network", "invite_to_network"),
            *("respond_invite", "kick_member", "promote_member", "transfer_ownership"),
            *("set_member_tags", "set_network_policy", "set_expr_policy", "rotate_key"),
            *("enroll_recovery", "recover_identity", "set_key_expiry", "set_polo_score"),
        ]
    ),
    st.fixed_dictionaries(
        {
            "peer": names,
            "network_id": st.integers(1, 4),
            "hostname": st.sampled_from(["", "alpha", "beta"]),
            "name": st.sampled_from(NETWORKS),
            "join_rule": st.sampled_from(["open", "token", "invite"]),
            "token": st.sampled_from(["", "right", "wrong"]),
            "tags": st.lists(st.sampled_from(["web", "ai"]), max_size=2),
            "flag": st.booleans(),
            "signed": st.booleans() | st.just(True),
            "admin": st.booleans(),
            "wait": st.integers(0, 3000),
        }
    ),
)


def send(world: World, name: str, kind: str, drawn: dict[str, Any]) -> tuple[Change, ...]:
    """Applies a drawn request."""
    world.now += drawn["wait"]
    node, peer = world.ids.get(name, 0), world.ids.get(drawn["peer"], 0)
    members: dict[str, Any] = {
        "node_id": node,
        "from_node_id": node,
        "inviter_id": node,
        "peer_id": peer,
        "to_node_id": peer,
        "target_node_id": peer,
        "new_owner_id": peer,
        **{key: drawn[key] for key in ("network_id", "hostname", "name", "join_rule", "token")},
        "tags": drawn["tags"],
        **dict.fromkeys(("accept", "public", "enabled", "enterprise"), drawn["flag"]),
        "justification": drawn["hostname"],
        "listen_addr": f":{4000 + drawn['wait']}",
        "public_key": key_text(name),
        "owner": f"{drawn['name']}@example.com",
        "new_public_key": key_text(name + drawn["hostname"]),
        "commitment": hashlib.sha256(drawn["name"].encode()).hexdigest(),
        "recovery_secret": drawn["name"],
        "max_members": drawn["wait"],
        "expr_policy": {"version": 1, "rules": [1]} if drawn["flag"] else "",
        "expires_at": "2100-01-01T00:00:00Z" if drawn["flag"] else "",
        "polo_score": drawn["wait"],
    }
    if drawn["admin"]:
        members["admin_token"] = "root"
    request: dict[str, Any] = {"type": kind, **members}
    if drawn["signed"]:
        request = world.sign(name, request)
    outcome = world.run(request, world.source(name))
    if kind == "register" and "node_id" in outcome.reply:
        world.ids[name] = outcome.reply["node_id"]
    return outcome.changes


def contents(state: Tables) -> dict[str, Any]:
    """All rows and indexes."""
    rows = {name: dict(table.pairs()) for name, table in state.tables.items()}
    indexes = {
        name: getattr(state, name)
        for name in (
            *("by_key", "by_hostname", "by_network_name", "networks_of", "departed"),
            *("live_nodes", "next_node", "next_network"),
        )
    }
    return rows | indexes


@given(drawn=st.lists(requests, max_size=60), folds=st.sets(st.integers(0, 59), max_size=3))
@settings(max_examples=150, deadline=None)
def test_a_state_survives_in_every_form(drawn: list[Any], folds: set[int]) -> None:
    world = World(Policy(admin_token="root", allows_owner_reclaim=True, reclaim_after=100))
    replica = State()
    stored: list[Change] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "registry.json"
        store = FileStore(path)
        policy, world.state = world.state.policy, store.load(world.now)
        world.state.policy = policy
        for number, (name, kind, members) in enumerate(drawn):
            changes = send(world, name, kind, members) + reap(world.state, world.now)
            if number in folds:
                # A view leaves out what is not durable yet, and keeps what is.
                store.rotate()
                store.fold(snapshot.View(world.state, changes))
            if changes:
                store.append(changes)
                stored += changes
                line = msgspec.json.encode([encode_change(change) for change in changes])
                for row in msgspec.json.decode(line):
                    replica.apply_row(row, world.now)
        store.close()
        again = FileStore(path)
        loaded = again.load(world.now)
        again.close()
    expected = contents(world.state)
    assert contents(loaded) == expected
    assert contents(replica) == expected
    assert contents(snapshot.load(snapshot_of(world.state), world.now)) == expected
    for change in reversed(stored):
        world.state.undo(change)
    rest = contents(world.state)
    assert not any(rest[name] for name in rest if not name.startswith("next_"))
    assert rest["live_nodes"] == 0
