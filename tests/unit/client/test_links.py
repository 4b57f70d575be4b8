"""Both SDKs against a daemon that hangs, splits frames, refuses, passes too much or exits."""

from __future__ import annotations

import os
import resource
import socket
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from tests.support.descriptors import descriptors, wait_for_descriptors
from tests.support.fake_daemon import FakeDaemon

import pilotstack
from pilotstack import sync
from pilotstack.client._tasks import TaskLink
from pilotstack.errors import (
    ForkedDriver,
    InvalidArgument,
    NotRunning,
    StreamBroken,
    TimedOut,
    Unavailable,
)
from pilotstack.ipc import codes
from pilotstack.ipc.frames import frame
from pilotstack.ipc.layout import U32
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pilotstack.client._wire import Wire

FAR = SocketAddress(Address(0, 7), 9)
LARGE = b"x" * 60_000
#: Seconds for a call that must not end otherwise.
SHORT = 0.05


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        yield daemon


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Lets this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/dev/null", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cut_frames(wire: Wire) -> None:
    """Has a large frame leave in parts."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def in_child(check: object) -> str:
    """What a forked child says."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # That other threads do not live on in the child is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            text = repr(check())  # type: ignore[operator]
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


# Cancelled and late


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["datagram", "request"])
async def test_a_cancelled_call_leaves_the_driver_usable(daemon: FakeDaemon, how: str) -> None:
    async with pilotstack.Driver(daemon.path) as driver, driver.datagram() as datagrams:
        assert driver._link.wire is not None
        cut_frames(driver._link.wire)
        daemon.reads.clear()
        is_cancelled = False
        while not is_cancelled:
            with anyio.move_on_after(SHORT) as scope:
                if how == "datagram":
                    await datagrams.send_to(LARGE, FAR)
                else:
                    await driver.broadcast(1, LARGE)
            is_cancelled = scope.cancelled_caught
        daemon.reads.set()
        for word in ("one", "two"):
            assert (await driver.call(codes.HANDSHAKE, word.encode()))["asked"] == word
    # Nothing was cut: every frame is one that was given.
    wanted = codes.SEND_FROM if how == "datagram" else codes.REQUEST
    assert all(
        len(body) > len(LARGE) for body in daemon.frames if body[0] == wanted and len(body) > 100
    )
    assert {body[0] for body in daemon.frames} <= {
        *(
            codes.HELLO,
            codes.BIND_DATAGRAMS,
            codes.SEND_FROM,
            codes.REQUEST,
            codes.UNBIND_DATAGRAMS,
        ),
    }


def test_a_call_that_timed_out_leaves_the_blocking_driver_usable(daemon: FakeDaemon) -> None:
    with sync.Driver(daemon.path) as driver:
        cut_frames(driver._link.wire)
        daemon.reads.clear()
        for _ in range(20):
            with pytest.raises(TimedOut):
                driver.call(codes.BROADCAST, LARGE, timeout=SHORT)
        daemon.reads.set()
        for word in ("one", "two"):
            assert driver.call(codes.HANDSHAKE, word.encode())["asked"] == word


def test_a_signal_between_socket_and_session_ends_the_session(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sync.Driver(daemon.path) as driver:

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(driver._link.wire.session, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            driver.info()
        monkeypatch.undo()
        # What was read then is lost, so nothing after it would mean what it says.
        with pytest.raises(NotRunning, match="interrupted"):
            driver.info()


@pytest.mark.anyio
async def test_a_missing_greeting_times_out(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "d.sock", greets=False) as daemon:
        with pytest.raises(TimedOut):
            async with pilotstack.Driver(daemon.path, timeout=SHORT):
                pass
        with pytest.raises(TimedOut):
            await anyio.to_thread.run_sync(lambda: sync.Driver(daemon.path, timeout=SHORT))


@pytest.mark.anyio
async def test_every_call_has_a_time_limit(daemon: FakeDaemon) -> None:
    async with pilotstack.Driver(daemon.path, timeout=SHORT) as driver:
        daemon.reads.clear()
        with pytest.raises(TimedOut):
            await driver.info()
        with pytest.raises(TimedOut):
            await driver.listen(80)
    daemon.reads.set()
    with sync.Driver(daemon.path, timeout=SHORT) as blocking:
        daemon.reads.clear()
        with pytest.raises(TimedOut):
            blocking.info()
        with pytest.raises(TimedOut):
            blocking.forward("/tmp/x.sock", FAR)


@pytest.mark.anyio
async def test_a_refusal_carries_its_reason(daemon: FakeDaemon) -> None:
    failure = b'{"code":"unavailable","message":"too many programs","hint":""}'
    daemon.refusal = frame(codes.FAILURE, U32.pack(0), failure)
    with pytest.raises(Unavailable, match="too many programs"):
        async with pilotstack.Driver(daemon.path):
            pass
    with pytest.raises(Unavailable, match="too many programs"):
        await anyio.to_thread.run_sync(lambda: sync.Driver(daemon.path))


@pytest.mark.anyio
async def test_a_full_queue_blocks_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(path))
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            with pytest.raises(TimedOut):
                async with pilotstack.Driver(path, timeout=SHORT):
                    pass
            with pytest.raises(TimedOut):
                await anyio.to_thread.run_sync(lambda: sync.Driver(path, timeout=SHORT))


def test_an_impossible_socket_path_is_an_invalid_argument(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 200), "a\0b"):
        with pytest.raises(InvalidArgument):
            sync.Driver(path)
    with pytest.raises(NotRunning):
        sync.Driver(tmp_path / "nothing")


# Descriptors


@pytest.mark.anyio
async def test_a_failed_descriptor_costs_only_its_stream_of_the_driver(
    daemon: FakeDaemon,
) -> None:
    async with pilotstack.Driver(daemon.path) as driver, driver.listen(80) as listener:
        given = daemon.give_stream(1)
        with given, no_more_descriptors():
            assert (await driver.info()).node_id == 42
        assert (await driver.info()).node_id == 42
        assert bytes((codes.ABORT_STREAM,)) + U32.pack(1) in daemon.frames
        with daemon.give_stream(2):
            async with await listener.accept() as stream:
                assert stream.connection_id == 2


def test_a_failed_descriptor_costs_only_its_stream_of_the_listener(daemon: FakeDaemon) -> None:
    with sync.Driver(daemon.path) as driver, driver.listen(80) as listener:
        given = daemon.give_stream(1, client=1)
        with given, no_more_descriptors(), pytest.raises(TimedOut):
            listener.accept(timeout=SHORT)
        with daemon.give_stream(2, client=1), listener.accept(timeout=20) as stream:
            assert stream.connection_id == 2


def test_descriptors_over_1024_can_be_polled(daemon: FakeDaemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.fail("this test needs a hard limit of 2,048 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with sync.Driver(daemon.path) as driver:
            assert driver._link.wire.socket.fileno() > 1024
            assert driver.info().node_id == 42
            with driver.listen(80) as listener, pytest.raises(TimedOut):
                listener.accept(timeout=SHORT)
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Forks


def test_a_forked_blocking_driver_raises_and_leaves_the_parent_alone(daemon: FakeDaemon) -> None:
    with sync.Driver(daemon.path) as driver, driver.listen(80) as listener:
        assert in_child(driver.info).startswith("ForkedDriver: ")
        assert in_child(listener.accept).startswith("ForkedDriver: ")
        assert in_child(driver.close) == "None"
        assert "another process" in in_child(lambda: driver)
        assert driver.info().node_id == 42
        assert isinstance(ForkedDriver("x"), RuntimeError)


def test_a_child_keeps_no_copy_of_the_session(daemon: FakeDaemon) -> None:
    driver = sync.Driver(daemon.path)
    number = driver._link.wire.socket.fileno()
    driver._link.wire.socket.detach()
    driver._link.wire.socket = socket.socket(fileno=number)
    assert in_child(lambda: os.path.exists(f"/proc/self/fd/{number}")) == "False"
    driver.close()


def test_a_lock_held_at_the_fork_does_not_block_the_child(daemon: FakeDaemon) -> None:
    with sync.Driver(daemon.path) as driver:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with driver._link._reading, driver._link._moving:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        assert in_child(driver.info).startswith("ForkedDriver: ")
        done.set()
        thread.join()


@pytest.mark.anyio
async def test_a_forked_driver_raises(daemon: FakeDaemon) -> None:
    async with pilotstack.Driver(daemon.path) as driver:
        # As in a child that no hook was called in.
        driver._link.wire._process -= 1  # type: ignore[union-attr]
        with pytest.raises(ForkedDriver):
            await driver.info()
        driver._link.wire._process += 1  # type: ignore[union-attr]
        assert (await driver.info()).node_id == 42


# Ends


def test_closing_a_listener_wakes_waiters(daemon: FakeDaemon) -> None:
    with sync.Driver(daemon.path) as driver:
        listener = driver.listen(80)
        ends: list[str] = []

        def serve() -> None:
            listener.serve(lambda stream: None)
            ends.append("served")

        thread = threading.Thread(target=serve)
        thread.start()
        listener.close()
        thread.join()
        assert ends == ["served"]


def test_a_closed_driver_refuses_calls(daemon: FakeDaemon) -> None:
    driver = sync.Driver(daemon.path)
    driver.close()
    for call in (driver.info, driver.listen, driver.datagram):
        with pytest.raises(NotRunning):
            call()


@pytest.mark.anyio
async def test_a_command_that_does_not_exist_is_an_invalid_argument(daemon: FakeDaemon) -> None:
    async with pilotstack.Driver(daemon.path) as driver:
        with pytest.raises(InvalidArgument):
            await driver.call(300)
    with sync.Driver(daemon.path) as blocking, pytest.raises(InvalidArgument):
        blocking.call(-1)


def test_a_stream_is_the_parents_and_the_childs_copy_says_how_it_ended(
    daemon: FakeDaemon,
) -> None:
    with sync.Driver(daemon.path) as driver, driver.listen(80) as listener:
        end = daemon.give_stream(1, client=1)
        with listener.accept(timeout=20) as stream:
            end.sendall(b"half")
            end.close()
            assert stream.recv(10) == b"half"
            assert in_child(lambda: stream.recv(10)).startswith("StreamBroken: ")


@pytest.mark.parametrize("how", ["recv", "recv_into", "makefile", "recvmsg", "dup"])
def test_every_way_of_reading_tells_an_end_from_a_break(daemon: FakeDaemon, how: str) -> None:
    def read(stream: sync.Stream) -> object:
        match how:
            case "recv":
                return stream.recv(10)
            case "recv_into":
                return stream.recv_into(bytearray(10))
            case "recvmsg":
                return stream.recvmsg(10)[0]
            case "dup":
                with stream.dup() as copy:
                    return copy.recv(10)
        with stream.makefile("rb") as file:
            return file.read(10)

    with sync.Driver(daemon.path) as driver, driver.listen(80) as listener:
        end = daemon.give_stream(1, client=1)
        with listener.accept(timeout=20) as stream:
            end.shutdown(socket.SHUT_WR)
            assert not read(stream)
            end.close()
        end = daemon.give_stream(2, client=1)
        daemon._clients[1].sendall(frame(codes.STREAM_FAILED, U32.pack(2), b"\x04"))
        with listener.accept(timeout=20) as stream:
            end.close()
            for _ in range(2):
                with pytest.raises(ConnectionResetError) as told:
                    read(stream)
                assert isinstance(told.value, StreamBroken)
                assert told.value.reason == "timeout"


@pytest.mark.anyio
async def test_a_stream_whose_data_the_daemon_did_not_read_raises_on_every_read(
    daemon: FakeDaemon,
) -> None:
    async with pilotstack.Driver(daemon.path) as driver, driver.listen(80) as listener:
        end = daemon.give_stream(1)
        async with await listener.accept() as stream:
            await stream.send(b"unread")
            end.sendall(b"half")
            end.close()
            assert await stream.receive() == b"half"
            for _ in range(2):
                with pytest.raises(StreamBroken, match="reset"):
                    await stream.receive()


@pytest.mark.anyio
async def test_a_cancelled_server_closes_the_stream_of_a_failed_handler(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    resetting = anyio.Event()

    async def abort(link: TaskLink, stream: pilotstack.Stream) -> None:
        resetting.set()
        await anyio.sleep_forever()

    async def fail(stream: pilotstack.Stream) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(TaskLink, "abort", abort)
    async with pilotstack.Driver(daemon.path) as driver, driver.listen(80) as listener:
        with daemon.give_stream(1) as end:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, fail)
                await resetting.wait()
                tasks.cancel_scope.cancel()
            end.settimeout(20)
            assert await anyio.to_thread.run_sync(end.recv, 1) == b""


@pytest.mark.anyio
async def test_no_descriptor_leaks(daemon: FakeDaemon) -> None:
    before = descriptors()
    async with pilotstack.Driver(daemon.path) as driver, driver.listen(80) as listener:
        ends = [daemon.give_stream(number) for number in range(5)]
        (await listener.accept()).extra(anyio.abc.SocketAttribute.raw_socket).close()
        for end in ends:
            end.close()
    daemon.end_sessions()
    await anyio.to_thread.run_sync(wait_for_descriptors, before)
