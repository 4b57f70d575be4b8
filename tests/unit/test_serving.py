"""Common parts of the servers."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from pilotstack import _serving
from pilotstack.errors import NotFound

pytestmark = pytest.mark.anyio


async def test_all_pending_connections_are_accepted_in_one_turn() -> None:
    count = 100
    accepted = 0

    async def handle(stream: anyio.abc.SocketStream) -> None:
        nonlocal accepted
        async with stream:
            accepted += 1

    with ExitStack() as stack:
        listening = stack.enter_context(_serving.listen("127.0.0.1", 0, count))
        for _ in range(count):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        turns = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, listening, handle)
            while accepted < count:
                await anyio.lowlevel.checkpoint()
                turns += 1
            tasks.cancel_scope.cancel()
    assert turns < count


async def test_connections_without_a_task_are_closed_at_the_end() -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        with _serving.listen("127.0.0.1", 0) as listening:
            client = socket.create_connection(listening.getsockname())
            spied = _Spied(listening, tasks.cancel_scope)
            with client:
                await _serving.accept_forever(spied, handle)  # type: ignore[arg-type]
    assert [accepted.fileno() for accepted in spied.accepted] == [-1]


class _Spied:
    """A listening socket whose owner is cancelled when it has accepted one connection."""

    def __init__(self, listening: socket.socket, scope: anyio.CancelScope) -> None:
        self._listening = listening
        self._scope = scope
        self.accepted: list[socket.socket] = []

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = self._listening.accept()
        self.accepted.append(accepted)
        self._scope.cancel()
        return accepted, address


async def test_reset_connections_do_not_stop_the_accept_loop() -> None:
    greeted = anyio.Event()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                await stream.send(b"hello")
                greeted.set()

    with _serving.listen("127.0.0.1", 0) as listening:
        for _ in range(10):
            with socket.create_connection(listening.getsockname()) as client:
                # A reset instead of a farewell.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, listening, handle)
            async with await anyio.connect_tcp(*listening.getsockname()) as client_stream:
                assert await client_stream.receive() == b"hello"
            await greeted.wait()
            tasks.cancel_scope.cancel()


async def test_a_failing_handler_does_not_stop_the_accept_loop() -> None:
    calls = 0

    async def handle(stream: anyio.abc.SocketStream) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a defect")
        async with stream:
            await stream.send(b"hello")

    before = _serving.failures.counts["connection"]
    with _serving.listen("127.0.0.1", 0) as listening:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, listening, handle)
            async with await anyio.connect_tcp(*listening.getsockname()) as first:
                with pytest.raises(anyio.EndOfStream):
                    await first.receive()
            async with await anyio.connect_tcp(*listening.getsockname()) as second:
                assert await second.receive() == b"hello"
            tasks.cancel_scope.cancel()
    assert _serving.failures.counts["connection"] == before + 1


class _Failing(socket.socket):
    """A listening socket of which accepting fails a few times."""

    def __init__(self, listening: socket.socket, errors: list[OSError]) -> None:
        super().__init__(fileno=listening.detach())
        self.errors = errors

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            raise self.errors.pop(0)
        return super().accept()


async def test_a_failed_accept_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_serving, "_ACCEPT_RETRY", 0)
    numbers = (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPROTO)

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"hello")

    errors = [OSError(number, os.strerror(number)) for number in numbers]
    with _Failing(_serving.listen("127.0.0.1", 0), errors) as failing:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, failing, handle)
            async with await anyio.connect_tcp(*failing.getsockname()) as client:
                assert await client.receive() == b"hello"
            tasks.cancel_scope.cancel()
    assert not failing.errors


async def test_a_failed_task_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "_AGAIN", 0)
    begun, again = 0, anyio.Event()
    before = _serving.failures.counts["a test"]

    async def step() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            again.set()
            await anyio.sleep_forever()
        raise ValueError("a defect")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serving.keep_running, "a test", step)
        await again.wait()
        tasks.cancel_scope.cancel()
    assert _serving.failures.counts["a test"] == before + 2


def test_an_unread_ready_line_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, end = os.pipe()
    os.close(reader)
    with open(end, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        _serving.announce(pid=1)
    monkeypatch.setattr(sys, "stdout", None)
    _serving.announce(pid=1)


async def test_a_failure_in_a_contained_task_does_not_cancel_siblings() -> None:
    class Program:
        @_serving.contained
        async def fail(self, number: int) -> None:
            raise KeyError(number)

    before = sum(_serving.failures.counts.values())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Program().fail, 1)
        tasks.start_soon(Program().fail, 2)
    assert sum(_serving.failures.counts.values()) == before + 2


async def test_an_endless_task_is_restarted_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_serving, "_AGAIN", 0)
    begun, again = 0, anyio.Event()

    class Program:
        @_serving.endless
        async def run(self) -> None:
            nonlocal begun
            begun += 1
            if begun == 1:
                raise RuntimeError("a defect")
            again.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Program().run)
        await again.wait()
        tasks.cancel_scope.cancel()


def test_the_exit_of_a_failed_server_has_no_exception_context() -> None:
    async def fails(stopping: anyio.Event) -> None:
        raise NotFound("nobody")

    with pytest.raises(SystemExit) as ended:
        _serving.run(fails)
    assert ended.value.code == 1
    # What is raised in a handler is shown with a traceback by some versions of Python.
    assert ended.value.__context__ is None


@pytest.mark.parametrize("is_ignored", [False, True])
def test_sighup_stops_the_server_unless_ignored(
    is_ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.SIG_IGN if is_ignored else signal.SIG_DFL
    monkeypatch.setattr(signal, "getsignal", lambda number: handler)
    assert (signal.SIGHUP in _serving._stop_signals()) is not is_ignored
