"""Keeping a session over the daemon's restarts."""

from __future__ import annotations

import os
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

from pilotstack.client import calls
from pilotstack.client._serving import log, report_hook
from pilotstack.client._turns import Waiter
from pilotstack.client._wire import FIRST_PAUSE, LONGEST_PAUSE, remove_stale
from pilotstack.errors import NotRunning, PilotError, TimedOut, Unavailable
from pilotstack.ipc.requests import GetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from anyio.abc import TaskGroup

    from pilotstack.client._ports import Port
    from pilotstack.client._wire import Wire
    from pilotstack.client.calls import Call
    from pilotstack.types import Address

    #: Told of the end or the beginning of a session; may be async.
    Hook = Callable[[], object]


T = TypeVar("T")


class KeptLink(Protocol):
    """What a keeper needs of its link (``_tasks.TaskLink``)."""

    timeout: float
    wire: Wire | None
    is_up: bool
    own: Address | None

    @property
    def is_closed(self) -> bool:
        """Whether no session is wanted any more."""

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""

    @property
    def forwards(self) -> Mapping[bytes, bytes]:
        """Where connections to Unix sockets of the daemon are dialled on to, by path."""

    def ports(self) -> Sequence[Port[Any]]:
        """What is bound."""

    async def until(self, waiter: Waiter, /) -> None:
        """Returns when the waiter is done."""

    async def connect(self) -> bool:
        """Opens a session."""

    def down(self, wire: Wire, /) -> None:
        """A session is over."""

    async def ask(self, wire: Wire, call: Call[T], /) -> T:
        """Asks in one session."""


class Keeper:
    """The background task of a link that reconnects."""

    def __init__(
        self, link: KeptLink, on_disconnect: Hook | None, on_reconnect: Hook | None
    ) -> None:
        self._link = link
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        self._tasks: TaskGroup | None = None
        # Of our task alone: the group's is around the caller's code, too.
        self._scope = anyio.CancelScope()
        #: Set while there is a session, and when there will be none.
        self.up = anyio.Event()

    async def start(self) -> None:
        """Begins, in the task that will end it."""
        self.up.set()
        self._scope = anyio.CancelScope()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)

    def down(self) -> None:
        """The session is over."""
        if self.up.is_set():
            self.up = anyio.Event()

    def cancel(self) -> None:
        """There will be no session any more."""
        self.up.set()
        self._scope.cancel()

    async def stop(self) -> None:
        """Waits for the end of the task."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            # An error of the caller's own code is not ours to wrap.
            await tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        with self._scope:
            await self._keep()

    async def _keep(self) -> None:
        link = self._link
        while True:
            with suppress(PilotError):
                await link.until(Waiter())
            if link.is_closed or link.wire is None or link.is_forked:
                return
            await self._tell(self._on_disconnect)
            await self._reconnect()
            link.is_up = True
            self.up.set()
            for port in link.ports():
                port.wake()
            await self._tell(self._on_reconnect)

    async def _tell(self, hook: Hook | None) -> None:
        if hook is None:
            return
        try:
            result = hook()
            if isawaitable(result):
                await result
        except Exception as error:
            report_hook(error)

    async def _reconnect(self) -> None:
        link, pause = self._link, FIRST_PAUSE
        while True:
            try:
                if not await link.connect() or link.wire is None:
                    raise Unavailable("the new daemon does not hand over streams")
                with anyio.fail_after(link.timeout):
                    await self._restore(link.wire)
            except (PilotError, TimeoutError) as error:
                log.debug("the daemon is not back yet: %s", error)
                if link.wire is not None:
                    link.down(link.wire)
            else:
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _restore(self, wire: Wire) -> None:
        """Binds again what was bound. What cannot be bound fails for those who wait on it."""
        link = self._link
        link.own = address = (await link.ask(wire, calls.control(GetInfo()))).address
        for port in link.ports():
            port.failure = await self._again(wire, port.binding(address))
        for path, endpoint in link.forwards.items():
            remove_stale(path)
            error = await self._again(wire, calls.forward_path(endpoint, path))
            if error is not None:
                log.error("%s is not forwarded any more: %s", os.fsdecode(path), error)

    async def _again(self, wire: Wire, call: Call[object]) -> PilotError | None:
        try:
            await self._link.ask(wire, call)
        except (NotRunning, TimedOut):
            raise
        except PilotError as error:
            return error
        return None
