"""Journal and snapshot: what was synced is loaded again, and damaged files are not overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.registry.model.rows import Change, Node
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.journal import FileStore

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.model.state import State


def node(number: int, **changes: Any) -> Node:
    members: dict[str, Any] = {
        "hostname": f"node-{number}",
        "endpoint": f"10.0.0.{number}:4000",
        "public": True,
    }
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


def load_copy(path: Path) -> State:
    """What a start would find if the process were killed now."""
    copied = path.parent / "copied"
    shutil.copytree(path.parent, copied)
    return load(copied / path.name)


def fold(path: Path) -> None:
    """A clean stop."""
    store = FileStore(path)
    state = store.load(0)
    store.rotate()
    store.fold(snapshot.View(state))
    store.close()


def journals(path: Path) -> dict[str, bytes]:
    return {
        p.name.removeprefix(f"{path.name}.journal."): p.read_bytes()
        for p in path.parent.glob("*.journal.*")
    }


def test_appended_changes_are_loaded_again(tmp_path: Path) -> None:
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
    view = snapshot.View(state)
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


def test_a_tail_cut_at_any_byte_loses_only_what_was_not_synced(tmp_path: Path) -> None:
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
    old = path.read_bytes()
    state = load(path)
    assert (tmp_path / "store.json.imported").read_bytes() == old
    # It can go on from there, and after a crash at once, too.
    write(path, node(5))
    assert set(load(path).nodes) == {4, 5}
    assert (state.nodes[4].hostname, state.nodes[4].endpoint, state.next_node) == (
        "old",
        "1.2.3.4:5",
        9,
    )


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be written"):
        FileStore(tmp_path / "none" / "store.json")


def test_a_first_generation_snapshot_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    key = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="
    gone = "7MG1hyfz8SsxlIgansud4LKM57IHIw2Okw/hvOdeJWw="
    old: dict[str, Any] = {
        "next_node": 3,
        "next_net": 1,
        "nodes": {
            "1": {
                "id": 1,
                "owner": "al@example.com",
                "public_key": key,
                "real_addr": "127.0.0.1:4000",
                "networks": [0],
                "last_seen": "2026-11-22T21:23:52Z",
                "hostname": "alice",
                "tags": ["web"],
            }
        },
        "networks": {
            "0": {
                "id": 0,
                "name": "backbone",
                "join_rule": "open",
                "members": [1],
                "created": "2026-11-22T21:23:51Z",
            }
        },
        "trust_pairs": ["1:2"],
        "pub_key_idx": {key: 1, gone: 2},
        "handshake_inbox": {
            "1": [
                {
                    "from_node_id": 2,
                    "justification": "hi",
                    "timestamp": "2026-11-22T21:23:52.400070433Z",
                }
            ]
        },
        "handshake_responses": {
            "2": [
                {
                    "from_node_id": 1,
                    "accept": False,
                    "timestamp": "2026-11-22T21:23:52.400355176Z",
                }
            ]
        },
    }
    path.write_text(json.dumps(old))
    fold(path)
    new = json.loads(path.read_text())
    # What the old binary reads has the values and types it wrote; times lose their fraction.
    assert new["nodes"]["1"] | {"last_seen": 0} == old["nodes"]["1"] | {"last_seen": 0}
    assert new["networks"] == old["networks"]
    for name in ("next_node", "next_net", "trust_pairs", "pub_key_idx"):
        assert new[name] == old[name], name
    waiting = new["handshake_inbox"]["1"][0]
    assert waiting["timestamp"] == "2026-11-22T21:23:52Z"
    assert new["handshake_responses"]["2"][0]["accept"] is False
    assert "2" not in new["nodes"]
    assert load(path).nodes[2].gone_at


def test_unknown_members_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    key = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "next_node": 2,
                "next_net": 5,
                "audit_log": [{"event": "x"}],
                "nodes": {
                    "1": {
                        "id": 1,
                        "public_key": key,
                        "networks": [0, 4],
                        "external_id": "ext",
                        "key_created": "2026-01-02T03:04:05Z",
                        "key_rotated": "2026-02-02T03:04:05Z",
                        "key_rot_count": 2,
                    }
                },
                "networks": {
                    "0": {"id": 0, "name": "backbone", "join_rule": "open", "members": [1]},
                    "4": {
                        "id": 4,
                        "name": "club",
                        "join_rule": "token",
                        "token": "clear text",
                        "members": [1, 99],
                        "member_roles": {"1": "owner"},
                        "member_tags": {"1": ["alpha"]},
                        "policy": {"max_members": 5, "allowed_ports": [7], "description": "d"},
                        "expr_policy": {"version": 1, "rules": [{}]},
                        "request_count": 12,
                    },
                },
            }
        )
    )
    for _ in range(2):
        state = load(path)
        assert state.networks_of == {1: (4,)}
        assert state.members.get((4, 1)).tags == ("alpha",)  # type: ignore[union-attr]
        assert state.networks[4].max_members == 5
        assert (state.keys[1].rotations, state.nodes[1].registered) == (2, 1_767_323_045)
        assert state.next_network == 5
        fold(path)
        new = json.loads(path.read_text())
        assert (new["audit_log"], new["version"]) == ([{"event": "x"}], 1)
        assert new["nodes"]["1"]["external_id"] == "ext"
        assert new["networks"]["4"]["request_count"] == 12
        assert "clear text" not in path.read_text()


def test_a_full_disk_keeps_nothing_of_the_write_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    store = FileStore(path)
    store.load(0)
    store.append([change(node(1))])
    real, is_full = os.pwrite, True

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if is_full and len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:-39] if is_full else data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space"):
        store.append([change(node(2))])
    is_full = False
    store.append([change(node(3))])
    store.close()
    assert set(load(path).nodes) == {1, 3}


def test_after_a_failed_sync_nothing_more_is_written_to_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    has_failed = False

    def fdatasync(fd: int) -> None:
        if has_failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    store = FileStore(path)
    store.load(0)
    store.append([change(node(1))])
    has_failed = True
    with pytest.raises(OSError, match="Input/output"):
        store.append([change(node(2))])
    has_failed = False
    store.append([change(node(3))])
    store.close()
    assert [name for name, text in sorted(journals(path).items()) if text] == ["1", "2"]
    assert set(load(path).nodes) == {1, 3}


def test_a_failed_sync_beside_a_snapshot_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    store = FileStore(path)
    state = store.load(0)
    store.rotate()
    view = snapshot.View(state)
    store.append([change(node(1))])
    with monkeypatch.context() as patch:

        def fdatasync(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(store, "_sync", fdatasync)
        with pytest.raises(OSError, match="Input/output"):
            store.append([change(node(2))])
    # This begins a journal by itself, which must not count as the one that the view is before.
    store.append([change(node(3))])
    store.fold(view)
    store.close()
    assert set(load(path).nodes) == {1, 3}


def test_a_snapshot_that_fails_leaves_the_old_one_and_the_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    write(path, node(1))
    fold(path)
    store = FileStore(path)
    state = store.load(0)
    store.append([change(node(2))])
    state.put("nodes", 2, node(2))
    store.rotate()
    with monkeypatch.context() as patch:

        def fsync(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            store.fold(snapshot.View(state))
    store.append([change(node(3))])
    assert set(load_copy(path).nodes) == {1, 2, 3}
    # The next one contains them all.
    state.put("nodes", 3, node(3))
    store.rotate()
    store.fold(snapshot.View(state))
    store.close()
    assert set(load(path).nodes) == {1, 2, 3}
    assert list(journals(path)) == ["4"]


def test_a_cut_off_tail_is_kept_aside_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store.json"
    write(path, node(1))
    journal = tmp_path / "store.json.journal.1"
    with journal.open("ab") as file:
        file.write(b"deadbeef [torn")
    assert set(load(path).nodes) == {1}
    assert "journal_repaired" in caplog.text
    assert (tmp_path / "store.json.journal.1.torn").read_bytes() == b"deadbeef [torn"


def test_an_old_snapshot_beside_later_journals_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    write(path, node(1))
    fold(path)
    backup = path.read_bytes()
    write(path, node(2))
    fold(path)
    path.write_bytes(backup)
    with pytest.raises(InternalError, match="missing"):
        load(path)


def test_a_batch_is_stored_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    store = FileStore(path)
    store.load(0)
    store.append([change(node(1)), change(node(2)), change(node(3))])
    store.close()
    journal = tmp_path / "store.json.journal.1"
    whole = journal.read_bytes()
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        assert load(path).nodes == {}
