"""Drivers that reconnect, and what waits on their ports meanwhile."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest
from tests.support.fake_daemon import FakeDaemon

import pilotstack
from pilotstack.errors import AlreadyExists, NotRunning
from pilotstack.ipc import codes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Waiting:
    """A task that waits for something which fails."""

    def __init__(self, tasks: anyio.abc.TaskGroup, call: Callable[[], Awaitable[object]]) -> None:
        self.error: Exception | None = None
        self._is_over = anyio.Event()
        tasks.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:
            self.error = error
        self._is_over.set()

    async def over(self) -> Exception | None:
        await self._is_over.wait()
        return self.error


async def test_a_port_that_is_lost_fails_for_tasks_that_wait_on_it(tmp_path: Path) -> None:
    back = anyio.Event()
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        async with (
            pilotstack.Driver(daemon.path, reconnect=True, on_reconnect=back.set) as driver,
            driver.listen(80) as listener,
            anyio.create_task_group() as tasks,
        ):
            waiting = [Waiting(tasks, listener.accept) for _ in range(2)]
            await anyio.wait_all_tasks_blocked()
            daemon.refused.add(codes.LISTEN_STREAMS)
            daemon.end_sessions()
            await back.wait()
            for task in waiting:
                assert isinstance(await task.over(), AlreadyExists)
            with pytest.raises(AlreadyExists):
                await listener.accept()


async def test_what_is_closed_while_the_daemon_is_away_is_not_waited_on(tmp_path: Path) -> None:
    gone = anyio.Event()
    with ExitStack() as stack:
        daemon = stack.enter_context(FakeDaemon(tmp_path / "d.sock"))
        driver = pilotstack.Driver(daemon.path, reconnect=True, on_disconnect=gone.set)
        async with driver, anyio.create_task_group() as tasks:
            listener, datagrams = await driver.listen(80), await driver.datagram(81)
            other = await driver.datagram(82)
            accepting = Waiting(tasks, listener.accept)
            receiving = Waiting(tasks, datagrams.receive)
            left = Waiting(tasks, other.receive)
            await anyio.wait_all_tasks_blocked()
            stack.close()
            daemon.path.unlink()
            await gone.wait()
            await anyio.wait_all_tasks_blocked()
            await listener.aclose()
            await datagrams.aclose()
            for task in (accepting, receiving):
                assert isinstance(await task.over(), anyio.ClosedResourceError)
            await driver.aclose()
            assert isinstance(await left.over(), NotRunning)


async def test_a_driver_that_reconnects_can_be_cancelled(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        for _ in range(2):
            with anyio.CancelScope() as scope:
                async with pilotstack.Driver(daemon.path, reconnect=True):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        with pytest.raises(RuntimeError, match="its own"):
            async with pilotstack.Driver(daemon.path, reconnect=True):
                raise RuntimeError("its own")


async def test_a_closed_datagram_socket_gives_nothing(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        async with pilotstack.Driver(daemon.path) as driver:
            datagrams = await driver.datagram(80)
            daemon.give_datagram(b"late")
            await driver.info()
            assert "1 datagrams wait" in repr(datagrams)
            await datagrams.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await datagrams.receive()
