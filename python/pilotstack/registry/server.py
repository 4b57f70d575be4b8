"""The registry's TCP server: a thin shell around :mod:`pilotstack.registry.state`.

One task per connection answers in order. A reply to a request that changed something waits until
the change is durable; changes that arrive while the disk is busy share the next sync.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from pilotstack.registry import messages
from pilotstack.registry.state import Change, Policy, Source, State, apply, reap

if TYPE_CHECKING:
    from types import TracebackType

    from pilotstack.registry.snapshot import View
    from pilotstack.registry.store import Store

log = structlog.get_logger(__name__)

#: Seconds after which an idle connection is closed (sheet 1.1).
IDLE = 300
#: Connections at once.
MAX_CONNECTIONS = 20_000
_READ = 1 << 16
#: Seconds between two looks at what time is over for.
_REAP_EVERY = 1.0


def _host_port(address: str | tuple[str, int]) -> tuple[str, int]:
    assert not isinstance(address, str), "TCP has no paths"
    return address[0], address[1]


@dataclass(slots=True)
class _Batch:
    changes: list[Change] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    error: OSError | None = None


class Committer:
    """Makes changes durable, many with one sync."""

    def __init__(self, state: State, store: Store) -> None:
        self._state = state
        self._store = store
        self._batch = _Batch()
        self._wanted = anyio.Event()
        self._is_folding = False

    async def commit(self, changes: tuple[Change, ...]) -> None:
        """Returns when the changes are durable.

        Raises:
            OSError: they are not, and were undone.
        """
        batch = self._batch
        batch.changes.extend(changes)
        self._wanted.set()
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error

    async def run(self) -> None:
        """Serves :meth:`commit` until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            while True:
                await self._wanted.wait()
                await self._flush()

    async def _flush(self) -> None:
        self._wanted = anyio.Event()
        batch, self._batch = self._batch, _Batch()
        try:
            await anyio.to_thread.run_sync(self._store.append, batch.changes)
        except OSError as error:
            self._refuse(batch, error)
            return
        batch.done.set()
        if self._store.wants_fold() and not self._is_folding:
            await self._start_fold()

    async def _start_fold(self) -> None:
        view = await self._rotate()
        if view is not None:
            self._is_folding = True
            self._tasks.start_soon(self._fold, view)

    async def _rotate(self) -> View | None:
        """A view of all that is durable, once the store has begun anew for what comes next."""
        try:
            await anyio.to_thread.run_sync(self._store.rotate)
        except OSError as error:
            log.error("snapshot_failed", error=str(error))
            return None
        return self._state.view(self._batch.changes)

    async def _fold(self, view: View) -> None:
        try:
            await anyio.to_thread.run_sync(self._store.fold, view)
        except OSError as error:
            log.error("snapshot_failed", error=str(error))
        finally:
            self._is_folding = False

    def _refuse(self, batch: _Batch, error: OSError) -> None:
        # What was changed since stands on what is refused, so it goes too, newest first.
        log.error("store_failed", error=str(error), refused=len(batch.changes))
        later, self._batch = self._batch, _Batch()
        for change in reversed(batch.changes + later.changes):
            self._state.undo(change)
        for refused in (batch, later):
            refused.error = error
            refused.done.set()

    async def fold(self) -> None:
        """Writes a snapshot; nothing else may be going on."""
        view = await self._rotate()
        if view is not None:
            await self._fold(view)

    async def reap(self) -> None:
        """Lets lapse what time is over for, until cancelled."""
        while True:
            await anyio.sleep(_REAP_EVERY)
            changes = reap(self._state, time.time())
            if changes:
                with suppress(OSError):
                    await self.commit(changes)


class RegistryServer:
    """Listens and serves; use as an async context manager around its life.

    Args:
        host: address to listen on.
        port: port to listen on; 0 means any.
        store: where the state survives.
        policy: what the operator decided.

    Raises:
        InternalError: the store is corrupt.
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, store: Store, policy: Policy | None = None) -> None:
        self._policy = policy or Policy(salt=os.urandom(32))
        self._host = host
        self._port = port
        self._store = store
        self._connections = 0
        self.counters = {"requests": 0, "dropped": 0}

    async def __aenter__(self) -> RegistryServer:
        self.state = self._store.load(time.time())
        self.state.policy = self._policy
        self._committer = Committer(self.state, self._store)
        self._listener = await anyio.create_tcp_listener(
            local_host=self._host, local_port=self._port, backlog=4096
        )
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._committer.run)
        self._tasks.start_soon(self._committer.reap)
        self._tasks.start_soon(self._listener.serve, self._serve)
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return _host_port(self._listener.extra(anyio.abc.SocketAttribute.local_address))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(kind, error, trace)
        with anyio.CancelScope(shield=True):
            await self._listener.aclose()
            await self._committer.fold()
            self._store.close()

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        if self._connections >= MAX_CONNECTIONS:
            await anyio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            async with stream:
                await self._converse(stream)
        except (messages.ProtocolError, TimeoutError) as error:
            self.counters["dropped"] += 1
            log.debug("connection_dropped", reason=str(error))
        except (anyio.BrokenResourceError, anyio.EndOfStream, OSError):
            pass
        finally:
            self._connections -= 1

    async def _converse(self, stream: anyio.abc.SocketStream) -> None:
        source = Source(*_host_port(stream.extra(anyio.abc.SocketAttribute.remote_address)))
        framer = messages.Framer()
        while True:
            while (body := framer.next_body()) is not None:
                reply = await self._answer(messages.decode(body), source)
                await stream.send(messages.encode(reply))
            with anyio.fail_after(IDLE):
                framer.feed(await stream.receive(_READ))

    async def _answer(self, request: messages.Message, source: Source) -> messages.Message:
        self.counters["requests"] += 1
        outcome = apply(self.state, request, source, time.time())
        if outcome.changes:
            try:
                await self._committer.commit(outcome.changes)
            except OSError as error:
                text = f"registry cannot store the change: {error.strerror or error}"
                return {"type": "error", "error": text}
        return outcome.reply
