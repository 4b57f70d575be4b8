"""Keeping a driver connected over its daemon's restarts."""

from __future__ import annotations

import os
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, cast

import anyio

from pilotstack.client import _frames as f
from pilotstack.client._serving import log, report_hook
from pilotstack.client._session import reply_json
from pilotstack.client._wire import FIRST_PAUSE, LONGEST_PAUSE, remove_stale
from pilotstack.client.control import info_of
from pilotstack.errors import NotRunning, PilotError, TimedOut, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from pilotstack.client._wire import Wire
    from pilotstack.client.aio import Driver


class Keeper:
    """The background task of a driver that reconnects."""

    def __init__(
        self,
        driver: Driver,
        on_disconnect: Callable[[], Any] | None,
        on_reconnect: Callable[[], Any] | None,
    ) -> None:
        self._driver = driver
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
        driver = self._driver
        while True:
            with suppress(PilotError):
                while True:
                    await driver._wait(anyio.Event())
            wire = driver._wire
            if driver._is_closed or wire is None or wire.is_forked:
                return
            await self._tell(self._on_disconnect)
            await self._reconnect()
            driver._is_up = True
            self.up.set()
            await self._tell(self._on_reconnect)

    async def _tell(self, hook: Callable[[], Any] | None) -> None:
        if hook is None:
            return
        try:
            result = hook()
            if isawaitable(result):
                await result
        except Exception as error:
            report_hook(error)

    async def _reconnect(self) -> None:
        driver, pause = self._driver, FIRST_PAUSE
        while True:
            try:
                if not await driver._connect():
                    raise Unavailable("the new daemon does not hand over streams")
                with anyio.fail_after(driver._timeout):
                    await self._restore(cast("Wire", driver._wire))
            except (PilotError, TimeoutError) as error:
                log.debug("the daemon is not back yet: %s", error)
                if driver._wire is not None:
                    driver._down(driver._wire)
            else:
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _restore(self, wire: Wire) -> None:
        """Binds again what was bound. What cannot be bound fails for those who wait on it."""
        driver = self._driver
        answer = await driver._ask(wire, f.REQUEST, bytes((f.INFO,)))
        driver._own = address = info_of(reply_json(cast("bytes", answer.value))).address
        for port, listener in list(driver._listeners.items()):
            place = (f.u16(port), f.u16(0), listener._path)
            listener._address = address
            listener._failure = await self._again(wire, f.LISTEN_STREAMS, *place, port=port)
        for port, datagrams in list(driver._datagrams.items()):
            number = f.u16(port)
            datagrams._failure = await self._again(wire, f.BIND_DATAGRAMS, number, port=port)
        for path, endpoint in driver._forwards.items():
            remove_stale(path)
            if (error := await self._again(wire, f.FORWARD_PATH, endpoint, path)) is not None:
                log.error("%s is not forwarded any more: %s", os.fsdecode(path), error)

    async def _again(
        self, wire: Wire, command: int, *parts: bytes, port: int = 0
    ) -> PilotError | None:
        try:
            await self._driver._ask(wire, command, *parts, port=port)
        except (NotRunning, TimedOut):
            raise
        except PilotError as error:
            return error
        return None
