"""Exclusive use of a store, and files of it that are removed or replaced meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pilotstack import _files
from pilotstack.errors import AlreadyExists, InternalError, InvalidArgument, PilotError
from pilotstack.registry.model.rows import Change, Node
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.store import (
    OutcomeUnknown,
    StoreClosed,
    StoreRemoved,
    StoreReplaced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pilotstack.registry.model.state import State


def change(number: int) -> Change:
    return Change("nodes", number, None, Node(node_id=number, public_key=bytes([number]) * 32))


class Running:
    """A registry's store in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = FileStore(path)
        self.state: State = self.store.load(0)

    def add(self, number: int) -> None:
        self.store.append([change(number)])
        self.state.put("nodes", number, change(number).after)

    def fold(self) -> None:
        self.store.rotate()
        self.store.fold(snapshot.View(self.state))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "store").mkdir()
    running = Running(tmp_path / "store" / "registry.json")
    yield running
    running.store.close()


def nodes_of(path: Path) -> set[int]:
    store = FileStore(path)
    try:
        return set(store.load(0).nodes)
    finally:
        store.close()


def test_a_second_registry_is_refused_before_it_reads(running: Running) -> None:
    running.add(1)
    journal = running.path.with_name("registry.json.journal.1")
    before = journal.read_bytes()
    journal.write_bytes(before + b"deadbeef 0000")
    with pytest.raises(AlreadyExists, match="another registry") as error:
        FileStore(running.path).load(0)
    assert error.value.hint
    assert journal.read_bytes() != before
    running.store.close()
    assert nodes_of(running.path) == {1}


def test_the_store_is_unlocked_at_the_end(running: Running) -> None:
    running.store.close()
    assert [path.name for path in running.path.parent.iterdir()] == ["registry.json.journal.1"]
    Running(running.path).store.close()


@pytest.mark.parametrize("kind", ["directory", "symlink", "hard link", "dotted", "no lock"])
def test_other_paths_to_the_same_store_are_refused(
    running: Running, tmp_path: Path, kind: str
) -> None:
    running.add(1)
    running.fold()
    other = tmp_path / "other"
    if kind == "directory":
        other.symlink_to(running.path.parent)
        path = other / "registry.json"
    elif kind == "dotted":
        path = running.path.parent / ".." / "store" / "registry.json"
    elif kind == "no lock":
        running.path.with_name(".registry.json.lock").unlink()
        path = running.path
    else:
        other.mkdir()
        path = other / "registry.json"
        if kind == "symlink":
            path.symlink_to(running.path)
        else:
            os.link(running.path, path)
    with pytest.raises(AlreadyExists):
        FileStore(path).load(0)
    running.add(2)


def test_a_hard_link_to_a_journal_is_refused(running: Running, tmp_path: Path) -> None:
    """Before the first snapshot there is nothing else."""
    other = tmp_path / "other"
    other.mkdir()
    os.link(running.path.with_name("registry.json.journal.1"), other / "registry.json.journal.1")
    with pytest.raises(AlreadyExists):
        FileStore(other / "registry.json").load(0)


def test_a_symbolic_link_in_place_of_the_store_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    (tmp_path / "registry.json").symlink_to(target)
    with pytest.raises(InvalidArgument, match="symbolic link") as error:
        FileStore(tmp_path / "registry.json").load(0)
    assert str(target) in str(error.value.hint)
    assert not target.exists()


NAMES = (".lock", "journal.1", "journal.2", "tmp", "journal.1.torn", "imported", "lock")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    directory = tmp_path / "store"
    directory.mkdir()
    path = directory / "registry.json"
    if name == "journal.1.torn":
        path.with_name("registry.json.journal.1").write_bytes(b"deadbeef [torn")
    hidden = ".registry.json.lock" if name == ".lock" else f"registry.json.{name}"
    path.with_name(hidden).symlink_to(victim)
    try:
        running = Running(path)
        try:
            running.add(1)
            running.fold()
        finally:
            running.store.close()
    except (OSError, PilotError):
        pass
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_linked_journal_is_not_even_read(tmp_path: Path) -> None:
    (tmp_path / "registry.json.journal.1").symlink_to("/dev/zero")
    with pytest.raises(InternalError, match="symbolic link"):
        FileStore(tmp_path / "registry.json").load(0)


def test_removed_files_are_written_again(running: Running) -> None:
    running.add(1)
    for path in running.path.parent.iterdir():
        path.unlink()
    with pytest.raises(StoreRemoved):
        running.store.append([change(2)])
    running.store.reclaim(snapshot.View(running.state))
    running.add(2)
    with pytest.raises(AlreadyExists):
        FileStore(running.path).load(0)
    running.store.close()
    assert nodes_of(running.path) == {1, 2}


@pytest.mark.parametrize("name", ["registry.json", "registry.json.journal.2"])
def test_one_removed_file_is_noticed(running: Running, name: str) -> None:
    running.add(1)
    running.fold()
    running.add(2)
    running.path.with_name(name).unlink()
    with pytest.raises(StoreRemoved):
        running.store.check()
    running.store.reclaim(snapshot.View(running.state))
    running.store.check()
    running.store.close()
    assert nodes_of(running.path) == {1, 2}


def test_nothing_is_stored_until_everything_is_written_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.add(1)
    shutil.rmtree(running.path.parent)
    for _ in range(2):
        with pytest.raises(StoreRemoved):
            running.store.append([change(2)])
        with pytest.raises(FileNotFoundError):
            running.store.reclaim(snapshot.View(running.state))
    running.path.parent.mkdir()

    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            running.store.reclaim(snapshot.View(running.state))
    with pytest.raises(StoreRemoved):
        running.store.append([change(2)])
    running.store.reclaim(snapshot.View(running.state))
    running.add(2)
    running.store.close()
    assert nodes_of(running.path) == {1, 2}


@pytest.mark.parametrize("name", ["registry.json", "registry.json.journal.2"])
def test_a_file_that_replaced_one_of_the_store_is_left_alone(running: Running, name: str) -> None:
    running.add(1)
    running.fold()
    replaced = running.path.with_name(name)
    backup = running.path.with_name("backup")
    backup.write_text("restored by the operator")
    backup.replace(replaced)
    with pytest.raises(StoreReplaced):
        running.store.append([change(2)])
    with pytest.raises(StoreClosed):
        running.store.append([change(2)])
    with pytest.raises(StoreClosed):
        running.fold()
    assert replaced.read_text() == "restored by the operator"
    kept = running.store.keep_aside(snapshot.View(running.state), "replaced")
    assert kept.stat().st_mode & 0o777 == 0o600
    running.store.close()
    # It is a store, if somebody wants it to be.
    alone = running.path.parent / "alone.json"
    kept.rename(alone)
    assert nodes_of(alone) == {1}


def test_a_store_made_by_another_after_the_removal_is_left_alone(running: Running) -> None:
    running.add(1)
    for path in running.path.parent.iterdir():
        path.unlink()
    other = Running(running.path)
    other.add(7)
    for _ in range(2):
        with pytest.raises(OSError, match=r"re(mov|plac)ed"):
            running.store.append([change(2)])
        with pytest.raises(OSError, match="replaced"):
            running.store.reclaim(snapshot.View(running.state))
    other.store.close()
    assert nodes_of(running.path) == {7}


def test_a_failed_write_that_cannot_be_taken_back_closes_the_store(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.add(1)

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        patch.setattr(running.store, "_sync", fail)
        with pytest.raises(OutcomeUnknown):
            running.store.append([change(2)])
    with pytest.raises(StoreClosed) as error:
        running.store.append([change(3)])
    assert not isinstance(error.value, OutcomeUnknown)
    running.store.close()
    assert 3 not in nodes_of(running.path)


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    _files.replace(path, [b"before"])
    _files.replace(path, [b"one", b"two"])
    assert path.read_bytes() == b"onetwo"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        _files.replace(path, [b"never"], is_new=True)

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            _files.replace(path, [b"never"])
    assert path.read_bytes() == b"onetwo"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_temporary_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / f".file.{'0' * 16}.tmp").write_text("half")
    (tmp_path / ".file.other.tmp").write_text("another program's")
    _files.sweep(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".file.other.tmp"]
