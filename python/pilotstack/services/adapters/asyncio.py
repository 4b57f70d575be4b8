"""Streams by the means of asyncio: readers and writers, transports and protocols.

The functions have the names, and as far as that makes sense the arguments, of those of
:mod:`asyncio`. ``get_extra_info("peername")`` of a writer is the peer's address as text, and its
port; ``"pilot"`` is the :class:`pilotstack.SocketAddress`.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pilotstack.client import Driver, Stream
from pilotstack.services.adapters._dialling import Dialler

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from pilotstack.client import Listener
    from pilotstack.types import SocketAddress, Target

__all__ = [
    "Server",
    "StreamWriter",
    "create_connection",
    "create_server",
    "open_connection",
    "start_server",
]

T = TypeVar("T", bound=asyncio.BaseProtocol)

#: Bytes that a reader keeps, as asyncio's own.
LIMIT = 1 << 16


class _Ends(Protocol):
    local_address: SocketAddress
    remote_address: SocketAddress


class StreamWriter(asyncio.StreamWriter):
    """A writer that knows the ends of its stream on every event loop."""

    _ends: _Ends

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of a writer; ``"pilot"`` is the peer."""
        match name:
            case "pilot":
                return self._ends.remote_address
            case "peername":
                return str(self._ends.remote_address.address), self._ends.remote_address.port
            case "sockname":
                return str(self._ends.local_address.address), self._ends.local_address.port
            case _:
                return super().get_extra_info(name, default)


async def _dial(
    target: Target,
    driver: Driver | None,
    socket_path: str | os.PathLike[str] | None,
    timeout: float | None,
) -> Stream:
    dialler = Dialler(driver, socket_path)
    try:
        return await dialler.dial(target, timeout)
    finally:
        # The stream outlives the session that opened it.
        await dialler.aclose()


async def create_connection(
    protocol_factory: Callable[[], T],
    target: Target,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
) -> tuple[asyncio.Transport, T]:
    """A transport to an agent and its protocol, as of ``loop.create_connection``.

    Args:
        target: as of :meth:`pilotstack.Driver.dial`, whose errors this raises.
        driver: dials; unless given, the daemon at ``socket_path`` is asked by one of its own.
        timeout: seconds; 25 unless given.
    """
    stream = await _dial(target, driver, socket_path, timeout)
    loop = asyncio.get_running_loop()
    return await loop.create_unix_connection(protocol_factory, sock=stream.socket())


async def open_connection(
    target: Target,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    limit: int = LIMIT,
) -> tuple[asyncio.StreamReader, StreamWriter]:
    """A reader and a writer, as of ``asyncio.open_connection``; arguments as of
    :func:`create_connection`."""
    stream = await _dial(target, driver, socket_path, timeout)
    return await _joined(stream, limit)


async def _joined(stream: Stream, limit: int) -> tuple[asyncio.StreamReader, StreamWriter]:
    loop, socket = asyncio.get_running_loop(), stream.socket()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    transport, protocol = await loop.create_unix_connection(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), sock=socket
    )
    writer = StreamWriter(transport, protocol, reader, loop)
    writer._ends = stream
    return reader, writer


class Server:
    """A server on a port of the overlay; an async context manager, whose end cancels handlers."""

    def __init__(self, listener: Listener, stack: AsyncExitStack) -> None:
        self._listener = listener
        self._stack = stack
        self._accepting: asyncio.Task[None]
        self._handling: set[asyncio.Task[None]] = set()
        #: The port that is listened on.
        self.port = listener.port

    def _begin(self, take: Callable[[Stream], Awaitable[object]]) -> Server:
        self._accepting = asyncio.create_task(self._accept(take))
        return self

    async def _accept(self, take: Callable[[Stream], Awaitable[object]]) -> None:
        async for stream in self._listener:
            task = asyncio.create_task(self._take(take, stream))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _take(self, take: Callable[[Stream], Awaitable[object]], stream: Stream) -> None:
        try:
            await take(stream)
        except Exception as error:
            what = {"message": f"the handler of {stream!r} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(what)
        finally:
            # Nothing is left to close once it was handed over.
            await stream.aclose()

    def close(self) -> None:
        """Stops listening; streams live on. :meth:`wait_closed` waits until that is done."""
        self._accepting.cancel()

    def is_serving(self) -> bool:
        """Whether it listens."""
        return not self._accepting.done()

    async def wait_closed(self) -> None:
        """Returns when it listens no more. Handlers go on."""
        await asyncio.wait({self._accepting})
        await self._stack.aclose()

    async def _end(self) -> None:
        """Stops listening, and cancels handlers."""
        self.close()
        await self.wait_closed()
        handling = set(self._handling)
        for task in handling:
            task.cancel()
        if handling:
            await asyncio.wait(handling)

    async def serve_forever(self) -> None:
        """Serves until cancelled, which cancels handlers, too.

        Raises:
            NotRunning: the daemon went away.
        """
        try:
            await asyncio.shield(self._accepting)
        finally:
            await self._end()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()


async def _listening(
    port: int, driver: Driver | None, socket_path: str | os.PathLike[str] | None
) -> Server:
    async with AsyncExitStack() as stack:
        if driver is None:
            driver = await stack.enter_async_context(Driver(socket_path))
        listener = await stack.enter_async_context(driver.listen(port))
        return Server(listener, stack.pop_all())


async def create_server(
    protocol_factory: Callable[[], asyncio.Protocol],
    port: int = 0,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
) -> Server:
    """Serves a port by protocols, as of ``loop.create_server``; it serves at once.

    Args:
        port: 1 to 65,535, or 0 for any that is free.
        driver: listens; unless given, one of its own does at ``socket_path``.

    Raises:
        AlreadyExists: the port is taken.
    """

    async def take(stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol_factory, stream.socket())

    return (await _listening(port, driver, socket_path))._begin(take)


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, StreamWriter], object],
    port: int = 0,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
    limit: int = LIMIT,
) -> Server:
    """Serves a port by readers and writers, as of ``asyncio.start_server``; arguments as of
    :func:`create_server`."""

    async def take(stream: Stream) -> None:
        reader, writer = await _joined(stream, limit)
        try:
            found = client_connected_cb(reader, writer)
            if inspect.isawaitable(found):
                await found
        except BaseException:
            writer.close()
            raise

    return (await _listening(port, driver, socket_path))._begin(take)
