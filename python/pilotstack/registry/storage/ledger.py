"""Joins state and store: changes are stored, many with one sync, before replies are sent and copies
are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from pilotstack import _events, _serving
from pilotstack.registry.model import validation
from pilotstack.registry.model.rows import Change, decode_change
from pilotstack.registry.storage.snapshot import View
from pilotstack.registry.storage.store import OutcomeUnknown, StoreRemoved, StoreReplaced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pilotstack._figures import Durations
    from pilotstack.registry.model.state import State
    from pilotstack.registry.storage.store import Store

log = _events.get_logger(__name__)

#: Interval in seconds of checking the store's files while nothing is written.
CHECK_EVERY: Final = 2.0

_T = TypeVar("_T")


class Sink(Protocol):
    """Receives durable changes, for example to send them to copies of this registry."""

    def publish(self, changes: Sequence[Change]) -> None:
        """Receives changes in the order in which they were stored; must not block."""


@dataclass(slots=True)
class _Batch:
    changes: list[Change] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    error: OSError | None = None


class Ledger:
    """A state and its store.

    Args:
        state: the content of the store.
        store: receives the changes.
    """

    def __init__(self, state: State, store: Store) -> None:
        self.state = state
        self._store = store
        self._batch = _Batch()
        self._in_flight: list[Change] = []
        self._wanted = anyio.Event()
        self._is_folding = False
        self._sinks: list[Sink] = []
        #: The last change could not be stored.
        self.is_failing = False
        self._is_adopted = False
        #: Serializes appending, rotating and rewriting.
        self._storing = anyio.Lock(fast_acquire=True)
        self._is_kept_aside = False

    @property
    def syncs(self) -> Durations:
        """How long changes waited for the disk."""
        return self._store.syncs

    @property
    def waiting(self) -> int:
        """Changes that are not durable yet."""
        return len(self._in_flight) + len(self._batch.changes)

    def add_sink(self, sink: Sink) -> None:
        """Sends durable changes to ``sink`` as well."""
        self._sinks.append(sink)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Returns when changes, already applied to the state, are durable.

        Raises:
            OutcomeUnknown: they were undone, but may reappear at the next start.
            OSError: they could not be stored and were undone.
        """
        batch = self._batch
        batch.changes.extend(changes)
        self._wanted.set()
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error

    async def run(self) -> None:
        """Serves :meth:`commit` until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wanted.wait()
                await self._flush(tasks)

    async def _flush(self, tasks: anyio.abc.TaskGroup) -> None:
        self._wanted = anyio.Event()
        batch, self._batch = self._batch, _Batch()
        self._in_flight = batch.changes
        try:
            await self._append(batch.changes)
        except OSError as error:
            self._refuse(batch, error)
            return
        except Exception as error:
            _serving.failures.note("store", error)
            self._refuse(batch, OSError(0, "it cannot be written"))
            return
        self._publish(batch.changes)
        batch.done.set()
        if self._store.wants_fold() and not self._is_folding:
            await self._begin_fold(tasks)

    async def _append(self, changes: Sequence[Change]) -> None:
        async with self._storing:
            try:
                await anyio.to_thread.run_sync(self._store.append, changes)
            except StoreRemoved:
                await self._reclaim()
                await anyio.to_thread.run_sync(self._store.append, changes)
            except StoreReplaced:
                await self._keep_aside()
                raise

    async def _reclaim(self) -> None:
        """Writes everything again after the files were removed: this is the last copy."""
        if self._is_folding:
            raise OSError(0, "its files were removed while a snapshot was written; try again")
        log.error("store_removed", hint="do not remove a store's files while its registry runs")
        try:
            await anyio.to_thread.run_sync(self._store.reclaim, self.durable_view())
        except StoreReplaced:
            await self._keep_aside()
            raise

    async def _keep_aside(self) -> None:
        if self._is_kept_aside:
            return
        self._is_kept_aside = True
        view = self.durable_view()
        try:
            kept = await anyio.to_thread.run_sync(self._store.keep_aside, view, "replaced")
        except OSError as error:
            kept = None
            log.error("keep_aside_failed", error=str(error))
        log.critical(
            "store_replaced",
            kept_in=str(kept),
            hint="nothing is written any more; start again to serve what is there now",
        )

    async def watch(self) -> None:
        """Checks the store's files until cancelled, also while nothing is written."""
        while True:
            await anyio.sleep(CHECK_EVERY)
            try:
                await self._check()
            except OSError as error:
                if not self.is_failing:
                    log.error("store_failed", error=str(error), refused=0)
                self.is_failing = True

    async def _check(self) -> None:
        async with self._storing:
            try:
                await anyio.to_thread.run_sync(self._store.check)
            except StoreRemoved:
                await self._reclaim()
                self.is_failing = False
            except StoreReplaced:
                await self._keep_aside()
                raise

    def _publish(self, changes: Sequence[Change]) -> None:
        self._in_flight = []
        self.is_failing = False
        for sink in self._sinks:
            sink.publish(changes)

    def _refuse(self, batch: _Batch, error: OSError) -> None:
        # Later changes build on the refused ones and are undone as well, newest first.
        log.error("store_failed", error=str(error), refused=len(batch.changes))
        self.is_failing = True
        self._in_flight = []
        later, self._batch = self._batch, _Batch()
        for change in reversed(batch.changes + later.changes):
            self.state.undo(change)
        batch.error = error
        # Those were never written.
        later.error = OSError(*error.args) if isinstance(error, OutcomeUnknown) else error
        for refused in (batch, later):
            refused.done.set()

    async def _begin_fold(self, tasks: anyio.abc.TaskGroup) -> None:
        """Starts a snapshot that is written beside further changes."""
        try:
            async with self._storing:
                await anyio.to_thread.run_sync(self._store.rotate)
        except Exception as error:
            self._note_failed_fold(error)
            return
        self._is_folding = True
        tasks.start_soon(self._fold, self.durable_view())

    async def _fold(self, view: View) -> None:
        try:
            await anyio.to_thread.run_sync(self._store.fold, view)
        except Exception as error:
            self._note_failed_fold(error)
        finally:
            self._is_folding = False

    @staticmethod
    def _note_failed_fold(error: Exception) -> None:
        """Logs a failed snapshot; nothing is lost, since the journals are still there."""
        if isinstance(error, OSError):
            log.error("snapshot_failed", error=str(error))
        else:
            _serving.failures.note("snapshot", error)

    def durable_view(self) -> View:
        """The durable part of the state, for a snapshot."""
        return View(self.state, [*self._in_flight, *self._batch.changes])

    async def close(self) -> None:
        """Writes a snapshot and releases the store. Nothing may be committed any more."""
        try:
            await anyio.to_thread.run_sync(self._store.rotate)
            await self._fold(View(self.state))
        except Exception as error:
            self._note_failed_fold(error)
        finally:
            self._store.close()

    # For standbys. Only the replication task calls these, and nothing else commits meanwhile.

    async def adopt(self, state: State, *, keeps: str = "") -> None:
        """Replaces state and store.

        Args:
            keeps: keep the replaced state in a file with this label.

        Raises:
            OSError: it cannot be stored; nothing has changed.
        """
        state.policy = self.state.policy
        view, before = View(state), View(self.state)
        async with self._storing:
            if keeps:
                kept = await self._store_for_copy(self._store.keep_aside, before, keeps)
                log.warning("kept_aside", label=keeps, kept_in=str(kept))
            await self._store_for_copy(self._store.rotate)
            await self._store_for_copy(self._store.fold, view)
        self.state = state
        self._is_adopted = True

    @property
    def is_blank(self) -> bool:
        """Whether this standby has copied nothing yet."""
        return not (self._is_adopted or self.state.nodes)

    async def replay(self, rows: Sequence[dict[str, object]], now: float) -> None:
        """Applies changes of another registry, in the form of
        :func:`~pilotstack.registry.model.rows.encode_change`.

        Raises:
            OSError: they cannot be stored; nothing has changed.
            ValueError: they are malformed; nothing has changed.
        """
        decoded = [decode_change(row) for row in rows]
        for change in decoded:
            validation.check_row(*change)
        changes = [Change(table, key, None, after) for table, key, after in decoded]
        async with self._storing:
            await self._store_for_copy(self._store.append, changes)
            for row in rows:
                self.state.apply_row(row, now)
            if self._store.wants_fold():
                await self._store_for_copy(self._store.rotate)
                await self._fold(View(self.state))

    async def _store_for_copy(self, step: Callable[..., _T], *arguments: object) -> _T:
        try:
            try:
                result = await anyio.to_thread.run_sync(step, *arguments)
            except StoreRemoved:
                await self._reclaim()
                result = await anyio.to_thread.run_sync(step, *arguments)
            except StoreReplaced:
                await self._keep_aside()
                raise
        except OSError as error:
            log.error("store_failed", error=str(error))
            self.is_failing = True
            raise
        self.is_failing = False
        return result
