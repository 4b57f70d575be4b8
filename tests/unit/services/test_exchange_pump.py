"""Files over sockets, which threads read and write."""

from __future__ import annotations

import errno
import hashlib
import os
import socket as sockets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.unit.services.exchange import Service, pair, serving

from pilotstack.services.data_exchange import Exchange, NotStored, bulk, frames, partial
from pilotstack.services.data_exchange.hasher import Hasher
from pilotstack.services.data_exchange.pump import Ended, Sender, Stopped
from pilotstack.services.data_exchange.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pilotstack.client import Stream

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_500_000)
MB = 1 << 20


@pytest.fixture
async def service(tmp_path: Path) -> Any:
    async with serving(tmp_path / "home") as service:
        yield service


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(CONTENT)
    return path


async def test_a_file_arrives(service: Service, file: Path) -> None:
    told: list[int] = []
    async with Exchange(service.dial_socket) as peer:
        sent = await peer.send_file(file, progress=told.append)
        # The stream is left at the border of a frame.
        assert (await peer.send_text("after it")).text == "ACK TEXT 8 bytes"
    assert sent.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert [*service.files().values()] == [CONTENT]
    assert told[-1] == len(CONTENT)


def test_blocks_are_hashed_while_the_next_one_is_fetched() -> None:
    begun, released = threading.Semaphore(0), threading.Semaphore(0)
    taken = []

    class Slow:
        def update(self, data: bytes | memoryview) -> None:
            begun.release()
            released.acquire()
            taken.append(bytes(data))

    with Hasher(Slow()) as hasher:
        hasher.update(b"one")
        begun.acquire()
        # The caller goes on, until there would be a second block.
        assert taken == []
        released.release()
        hasher.update(b"two")
        assert taken == [b"one"]
        released.release()
    assert taken == [b"one", b"two"]


async def test_a_sparse_file_stays_sparse(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as written:
        written.write(b"begin")
        written.truncate(32 * MB)
        written.seek(32 * MB)
        written.write(b"end")
    async with Exchange(service.dial_socket) as peer:
        await peer.send_file(path)
    (stored,) = service.received.glob("sparse-*")
    assert stored.read_bytes() == path.read_bytes()
    assert stored.stat().st_blocks * 512 < 8 * MB


async def test_what_came_before_the_end_is_resumed(service: Service, file: Path) -> None:
    key = "0" * 32
    stream = await service.dial_socket()
    await stream.send(bulk.encode(bulk.Offer(key, "a", len(CONTENT))))
    await Reader(stream).frame(1 << 16)
    await stream.send(bulk.data_head(3 * MB) + CONTENT[: 2 * MB + 100])
    await stream.aclose()
    while service.exchange._stores.folder._open:
        await anyio.lowlevel.checkpoint()
    stream = await service.dial_socket()
    await stream.send(bulk.encode(bulk.Offer(key, "a", len(CONTENT))))
    reader = Reader(stream)
    frame = await reader.frame(1 << 16)
    assert frame is not None
    assert bulk.parse(frame.payload) == bulk.Accept(2 * MB + 100)
    rest = CONTENT[2 * MB + 100 :]
    digest = hashlib.sha256(CONTENT).hexdigest()
    await stream.send(bulk.data_head(len(rest)) + rest + bulk.encode(bulk.End(digest)))
    frame = await reader.frame(1 << 16)
    assert frame is not None
    assert bulk.parse(frame.payload) == bulk.Result(bytes=len(CONTENT))
    assert [*service.files().values()] == [CONTENT]
    await stream.aclose()


async def test_a_full_disk_ends_the_sender_too(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, parts: object, offset: int) -> None:
        if offset > MB:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partial, "_write", write)
    async with Exchange(service.dial_socket) as peer:
        with pytest.raises(NotStored, match="disk is full"):
            await peer.send_file(file)
    assert service.partials() == []


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (bulk.data_head(5) + b"12345", "more data than was announced"),
        (bulk.data_head(20 << 20), "a block of a wrong size"),
        (bulk.data_head(0) * 100, "a block of a wrong size"),
        (frames.encode(1, b"hello"), "a frame inside a file"),
        (bulk.encode(bulk.Accept(0)), "nobody expects"),
    ],
)
async def test_what_does_not_fit_is_told(service: Service, sent: bytes, reason: str) -> None:
    stream = await service.dial_socket()
    await stream.send(bulk.encode(bulk.Offer("0" * 32, "a", 4)))
    reader = Reader(stream)
    await reader.frame(1 << 16)
    await stream.send(sent)
    with anyio.fail_after(10):
        frame = await reader.frame(1 << 16)
    assert frame is not None
    assert reason.encode() in frame.payload
    await stream.aclose()


async def test_cancelling_ends_the_threads(service: Service, file: Path) -> None:
    ours, theirs = pair()

    async def dial() -> Stream:
        return ours

    async with theirs:
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as tasks, Exchange(dial) as peer:
                tasks.start_soon(peer.send_file, file)
                reader = Reader(theirs)
                await reader.frame(1 << 16)
                await theirs.send(bulk.encode(bulk.Accept(0)))
                await reader.header()
                # It is in the middle of a block that nobody takes.
                tasks.cancel_scope.cancel()
        assert not scope.cancelled_caught


async def test_more_files_than_threads_arrive_all_the_same(
    service: Service, tmp_path: Path
) -> None:
    service.exchange._stores.lanes = anyio.CapacityLimiter(1)

    async def send(number: int) -> None:
        path = tmp_path / str(number)
        path.write_bytes(CONTENT[: MB + number])
        async with Exchange(service.dial_socket) as peer:
            await peer.send_file(path)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(send, number)
    sizes = sorted(map(len, service.files().values()))
    assert sizes == [MB + number for number in range(6)]


@pytest.fixture
def full() -> Iterator[tuple[sockets.socket, sockets.socket]]:
    """A socket that takes nothing more, and the one that would."""
    ours, theirs = sockets.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        yield ours, theirs


def in_thread(step: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            step()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures


def test_a_pump_stops_when_told(full: tuple[sockets.socket, sockets.socket]) -> None:
    pump = Sender(full[0], 60)
    thread, failures = in_thread(lambda: pump.send(b"x"))
    pump.stop()
    thread.join(10)
    assert [type(each) for each in failures] == [Stopped]


def test_a_pump_gives_up_a_peer_that_takes_nothing(
    full: tuple[sockets.socket, sockets.socket],
) -> None:
    with pytest.raises(TimeoutError):
        Sender(full[0], 0.01).send(b"x")


def test_a_pump_ends_with_its_stream(full: tuple[sockets.socket, sockets.socket]) -> None:
    pump = Sender(full[0], 60)
    thread, failures = in_thread(lambda: pump.send(b"x"))
    full[1].close()
    thread.join(10)
    assert [type(each) for each in failures] == [Ended]
