"""The ledger over a store that fails in every way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from pilotstack import _serving
from pilotstack.registry.model.rows import Change, Node
from pilotstack.registry.model.state import State
from pilotstack.registry.storage import ledger as ledgers
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio


def changed(state: State, number: int) -> list[Change]:
    row = Node(node_id=number, public_key=bytes([number]) * 32)
    state.put("nodes", number, row)
    return [Change("nodes", number, None, row)]


class Failing(MemoryStore):
    """Fails with what it is told to."""

    error: Exception | None = None

    def append(self, changes: Sequence[Change]) -> None:
        if self.error is not None:
            raise self.error


def kept_in(directory: Path) -> list[Path]:
    return list(directory.glob("registry.json.replaced-*"))


def remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


async def test_removed_files_are_written_again_without_a_request_being_lost(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path / "registry.json")
    ledger = Ledger(store.load(0), store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        await ledger.commit(changed(ledger.state, 1))
        remove_all(tmp_path)
        await ledger.commit(changed(ledger.state, 2))
        assert not ledger.is_failing
        tasks.cancel_scope.cancel()
    store.close()
    again = FileStore(tmp_path / "registry.json")
    assert set(again.load(0).nodes) == {1, 2}
    again.close()


async def test_removed_files_are_noticed_when_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "CHECK_EVERY", 0)
    store = FileStore(tmp_path / "registry.json")
    ledger = Ledger(store.load(0), store)
    changed(ledger.state, 1)
    async with anyio.create_task_group() as tasks:
        remove_all(tmp_path)
        tasks.start_soon(ledger.watch)
        while not (tmp_path / "registry.json").exists():
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    store.close()


async def test_replaced_files_stop_writes_and_the_state_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "CHECK_EVERY", 0)
    store = FileStore(tmp_path / "registry.json")
    ledger = Ledger(store.load(0), store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        await ledger.commit(changed(ledger.state, 1))
        (tmp_path / "registry.json").write_text("{}")
        tasks.start_soon(ledger.watch)
        while not ledger.is_failing:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(OSError, match="replaced"):
            await ledger.commit(changed(ledger.state, 2))
        assert set(ledger.state.nodes) == {1}
        tasks.cancel_scope.cancel()
    store.close()
    assert (tmp_path / "registry.json").read_text() == "{}"
    (kept,) = kept_in(tmp_path)
    kept.rename(tmp_path / "kept.json")
    again = FileStore(tmp_path / "kept.json")
    assert set(again.load(0).nodes) == {1}
    again.close()


async def test_an_unexpected_failure_refuses_only_its_batch() -> None:
    store = Failing()
    ledger = Ledger(State(), store)
    before = _serving.failures.counts["store"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        store.error = OverflowError("no such number")
        with pytest.raises(OSError, match="cannot be written"):
            await ledger.commit(changed(ledger.state, 1))
        assert (ledger.is_failing, set(ledger.state.nodes)) == (True, set())
        store.error = None
        await ledger.commit(changed(ledger.state, 2))
        assert (ledger.is_failing, set(ledger.state.nodes)) == (False, {2})
        tasks.cancel_scope.cancel()
    assert _serving.failures.counts["store"] == before + 1


async def test_a_write_that_cannot_be_undone_has_an_unknown_outcome() -> None:
    store = Failing()
    ledger = Ledger(State(), store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        store.error = OutcomeUnknown(5, "it could not be taken back")
        with pytest.raises(OutcomeUnknown):
            await ledger.commit(changed(ledger.state, 1))
        tasks.cancel_scope.cancel()
