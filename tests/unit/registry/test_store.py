"""Journal and snapshot: what was synced comes back, and what is broken is not overwritten."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.registry.records import Change
from pilotstack.registry.state import Node, State
from pilotstack.registry.store import FileStore

if TYPE_CHECKING:
    from pathlib import Path


def node(number: int, **changes: Any) -> Node:
    members = {"hostname": f"node-{number}", "endpoint": f"10.0.0.{number}:4000", "public": True}
    return Node(node_id=number, public_key=bytes([number]) * 32, **(members | changes))


def change(after: Node) -> Change:
    return Change("nodes", after.node_id, None, after)


def write(path: Path, *nodes: Node) -> None:
    store = FileStore(path)
    store.load(0)
    for each in nodes:
        store.append([change(each)])
    store.close()


def load(path: Path) -> State:
    store = FileStore(path)
    try:
        return store.load(0)
    finally:
        store.close()


def fold(path: Path) -> None:
    """A clean stop."""
    store = FileStore(path)
    state = store.load(0)
    store.rotate()
    store.fold(state.view())
    store.close()


def journals(path: Path) -> dict[str, bytes]:
    return {
        p.name.removeprefix(f"{path.name}.journal."): p.read_bytes()
        for p in path.parent.glob("*.journal.*")
    }


def test_what_was_appended_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    write(path, node(1), node(2), node(1, hostname="renamed"))
    state = load(path)
    assert state.nodes == {1: node(1, hostname="renamed"), 2: node(2)}
    assert state.by_hostname == {"renamed": 1, "node-2": 2}
    assert state.next_node == 3


def test_folding_keeps_everything_and_begins_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    store = FileStore(path)
    state = store.load(0)
    for number in (1, 2):
        store.append([change(node(number))])
        state.put("nodes", number, node(number))
    state.next_node = 7
    store.rotate()
    view = state.view()
    # What is written while the snapshot is under way goes to the new journal.
    store.append([change(node(2, gone_at=5, hostname=""))])
    store.fold(view)
    store.close()
    assert set(json.loads(path.read_text())["nodes"]) == {"1", "2"}
    assert list(journals(path)) == ["2"]
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    again = load(path)
    assert again.nodes == {1: node(1), 2: node(2, gone_at=5, hostname="")}
    assert again.next_node == 7
    assert "node-2" not in again.by_hostname


def test_a_tail_cut_at_any_octet_loses_only_what_was_not_synced(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    write(path, node(1), node(2))
    journal = tmp_path / "store.json.journal.1"
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        journal.write_bytes(whole[:length])
        assert set(load(path).nodes) == {1}
        # The torn line is gone, so that what follows starts cleanly.
        write(path, node(3))
        assert set(load(path).nodes) == {1, 3}


def test_damage_in_the_middle_stops_the_start_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    write(path, node(1), node(2))
    journal = tmp_path / "store.json.journal.1"
    damaged = bytearray(journal.read_bytes())
    damaged[20] ^= 1
    journal.write_bytes(damaged)
    with pytest.raises(InternalError, match="corrupt") as error:
        load(path)
    assert error.value.hint
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"nodes":{"1":{"id":1,"public_key":"x"}}}'])
def test_a_foreign_snapshot_stops_the_start_and_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "store.json"
    path.write_text(text)
    with pytest.raises(InternalError, match="corrupt"):
        load(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == text


def test_a_snapshot_of_an_existing_registry_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    key = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="
    row = {"id": 4, "public_key": key, "networks": [0], "real_addr": "1.2.3.4:5", "hostname": "old"}
    path.write_text(json.dumps({"next_node": 9, "nodes": {"4": row}, "networks": {}}))
    state = load(path)
    assert (state.nodes[4].hostname, state.nodes[4].endpoint, state.next_node) == (
        "old",
        "1.2.3.4:5",
        9,
    )


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be written"):
        FileStore(tmp_path / "none" / "store.json")
