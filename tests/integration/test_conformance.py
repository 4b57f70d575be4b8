"""One contract for every stream on every event loop, with Trio's own checks among them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import sniffio
import trio
import trio.testing

from pilotstack import Driver, Stream
from pilotstack.errors import InvalidArgument
from pilotstack.services import secure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pilotstack.services.secure import SecureStream
    from pilotstack.testing import Network

    #: Makes two ends of a stream.
    Maker = Callable[[], Awaitable[tuple[Stream | SecureStream, Stream | SecureStream]]]

pytestmark = pytest.mark.anyio
T = TypeVar("T")
PORT = 4700


@pytest.fixture(params=["native", "framed", "secure", "secure-framed"])
async def make(shared_network: Network, request: pytest.FixtureRequest) -> AsyncIterator[Maker]:
    framed = request.param.endswith("framed")
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    async with (
        Driver(a, framed=framed) as dialler,
        Driver(b, framed=framed) as server,
        server.listen(PORT + framed) as listener,
    ):
        address = (await server.info()).address

        async def make() -> tuple[Stream, Stream]:
            dialled = await dialler.dial((address, listener.port))
            return dialled, await listener.accept()

        async def make_secure() -> tuple[SecureStream, SecureStream]:
            return await secured(*await make())

        yield make_secure if request.param.startswith("secure") else make


async def secured(dialled: Stream, accepted: Stream) -> tuple[SecureStream, SecureStream]:
    """Both ends of a secure channel over a stream."""
    ends: dict[str, SecureStream] = {}

    async def serve() -> None:
        ends["server"] = await secure.wrap_server(accepted)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        ends["client"] = await secure.wrap_client(dialled)
    return ends["client"], ends["server"]


async def turn(operation: Awaitable[T]) -> T:
    """What an operation gives, which must have let another task run."""
    if sniffio.current_async_library() == "trio":
        with trio.testing.assert_checkpoints():
            return await operation
    has_run = False

    async def other() -> None:
        nonlocal has_run
        has_run = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        result = await operation
        assert has_run, "no other task had a turn"
    return result


async def test_every_operation_is_a_checkpoint(make: Maker) -> None:
    ours, theirs = await make()
    await turn(ours.send(b"123"))
    await turn(ours.send(b""))
    assert await theirs.receive(1) == b"1"
    # The rest waits there already.
    assert await turn(theirs.receive(1)) == b"2"
    assert await turn(theirs.receive(1)) == b"3"
    await turn(ours.send_eof())
    await turn(ours.send_eof())
    with pytest.raises(anyio.EndOfStream):
        await theirs.receive()
    for stream in (ours, theirs):
        await turn(stream.aclose())
        await turn(stream.aclose())


async def test_a_send_in_a_cancelled_scope_sends_nothing(make: Maker) -> None:
    ours, theirs = await make()
    async with ours, theirs:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ours.send(b"lost")
        assert scope.cancelled_caught
        await ours.send(b"sent")
        assert await theirs.receive() == b"sent"


async def test_cancelled_receives_lose_nothing(make: Maker) -> None:
    ours, theirs = await make()
    sent = bytes(range(256)) * 8
    got = b""
    cancelled = 0

    async def send() -> None:
        for begin in range(0, 2 * len(sent), 7):
            await ours.send((sent + sent)[begin : begin + 7])

    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        while len(got) < len(sent):
            # At its next wait, if there is one.
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel, scope)
                got += await theirs.receive(5)
            cancelled += scope.cancelled_caught
            got += await theirs.receive(5)
        tasks.cancel_scope.cancel()
    assert (sent + sent).startswith(got)
    assert cancelled


async def cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()


async def test_closed_streams_take_and_give_nothing(make: Maker) -> None:
    ours, theirs = await make()
    await ours.aclose()
    for operation in (ours.send(b"x"), ours.send(b""), ours.receive(), ours.send_eof()):
        with pytest.raises(anyio.ClosedResourceError):
            await operation
    await theirs.aclose()


async def test_after_its_end_a_stream_takes_nothing(make: Maker) -> None:
    ours, theirs = await make()
    async with ours, theirs:
        await ours.send_eof()
        for item in (b"x", b""):
            with pytest.raises(anyio.ClosedResourceError):
                await ours.send(item)
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await theirs.receive()


async def test_one_task_reads_at_a_time(make: Maker) -> None:
    ours, theirs = await make()
    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(receive_one, theirs)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await theirs.receive()
        await ours.send(b"x")


async def receive_one(stream: Stream | SecureStream) -> None:
    assert await stream.receive() == b"x"


async def test_closing_ends_the_wait_of_another_task(make: Maker) -> None:
    ours, theirs = await make()

    async def receive() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await theirs.receive()

    async with ours, anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await theirs.aclose()


async def test_a_cancelled_close_closes(make: Maker) -> None:
    ours, theirs = await make()
    await anyio.aclose_forcefully(ours)
    with pytest.raises(anyio.ClosedResourceError):
        await ours.send(b"x")
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await theirs.receive()
    await theirs.aclose()


async def test_arguments_are_checked(make: Maker) -> None:
    ours, theirs = await make()
    async with ours, theirs:
        for size, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(error) as refused:
                await ours.receive(size)  # type: ignore[arg-type]
            assert isinstance(refused.value, InvalidArgument)
        with pytest.raises(TypeError):
            await ours.send("text")  # type: ignore[arg-type]
        for item in (bytearray(b"1"), memoryview(b"2")):
            await ours.send(item)  # type: ignore[arg-type]
            assert await theirs.receive() == bytes(item)


# Trio's checks


@contextmanager
def translated() -> Iterator[None]:
    """anyio's errors as Trio's."""
    try:
        yield
    except anyio.ClosedResourceError as error:
        raise trio.ClosedResourceError from error
    except anyio.BrokenResourceError as error:
        raise trio.BrokenResourceError from error
    except anyio.BusyResourceError as error:
        raise trio.BusyResourceError from error


class TrioStream(trio.abc.Stream):
    """A stream by the names that Trio has for its operations."""

    def __init__(self, stream: Stream | SecureStream) -> None:
        self._stream = stream

    async def send_all(self, data: Any) -> None:
        with translated():
            await self._stream.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.send_all(b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with translated():
            try:
                if max_bytes is None:
                    return await self._stream.receive()
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def aclose(self) -> None:
        await self._stream.aclose()


class TrioHalfCloseableStream(TrioStream, trio.abc.HalfCloseableStream):
    """The same for one that has half-close."""

    async def send_eof(self) -> None:
        with translated():
            await self._stream.send_eof()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_agrees(make: Maker, anyio_backend: str) -> None:
    del anyio_backend
    (probe, other) = await make()
    is_native = probe.has_half_close
    await probe.aclose()
    await other.aclose()

    async def two_way() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ours, theirs = await make()
        return TrioStream(ours), TrioStream(theirs)

    async def half_closeable() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        ours, theirs = await make()
        return TrioHalfCloseableStream(ours), TrioHalfCloseableStream(theirs)

    if is_native:
        await trio.testing.check_half_closeable_stream(half_closeable, None)
    else:
        await trio.testing.check_two_way_stream(two_way, None)
