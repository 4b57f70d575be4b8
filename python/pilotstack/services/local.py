"""TCP connections of this host as byte streams over plain sockets.

The streams of event loops read ahead into buffers of their own. These do not, so that the kernel
can move what they carry (:mod:`pilotstack.services.relaying`).
"""

from __future__ import annotations

import errno
import math
import os
import socket as sockets
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pilotstack import _events, _serving
from pilotstack.errors import ConnectionFailed, ConnectionRefused, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

log = _events.get_logger(__name__)

#: Bytes read at once.
_READ = 1 << 16
#: ``SO_LINGER`` of 0 s: closing sends RST.
_RESET = struct.pack("ii", 1, 0)
#: Connections accepted before other tasks get a turn.
_BURST = 64
#: Seconds, and reads, for bytes that still come while a connection is closed.
_FAREWELL = 2.0
_DISCARDED = 32
#: Seconds before the next attempt after ``accept`` failed.
_AGAIN = 0.1
#: Seconds between two lines of the log about that.
_TELL_EVERY = 10.0


class LocalStream(anyio.abc.ByteStream):
    """A TCP connection.

    Args:
        socket: connected; it is this object's from now on.
    """

    def __init__(self, socket: sockets.socket) -> None:
        socket.setblocking(False)
        self._socket = socket

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket."""
        return {SocketAttribute.raw_socket: lambda: self._socket}

    @property
    def peer(self) -> str:
        """Where the other end is, for people; empty if that is over."""
        address = self.peer_address
        return _serving.join_address(*address) if address is not None else ""

    @property
    def peer_address(self) -> tuple[str, int] | None:
        """Host and port of the other end."""
        try:
            host, port, *_ = self._socket.getpeername()
        except (OSError, ValueError):
            return None
        return host, port

    @property
    def local_address(self) -> tuple[str, int] | None:
        """Host and port of this end."""
        try:
            host, port, *_ = self._socket.getsockname()
        except (OSError, ValueError):
            return None
        return host, port

    async def receive(self, max_bytes: int = _READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes. Who is cancelled has received none."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise _error(error) from error
            else:
                await anyio.lowlevel.cancel_shielded_checkpoint()
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """Sends all bytes."""
        view = memoryview(item)
        await anyio.lowlevel.checkpoint()
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise _error(error) from error

    async def send_eof(self) -> None:
        """Sends FIN; reading goes on."""
        await anyio.lowlevel.checkpoint()
        # It fails if the peer has reset the connection, which reading tells.
        with suppress(OSError):
            self._socket.shutdown(sockets.SHUT_WR)

    async def aclose(self) -> None:
        """Closes the connection; what was sent still arrives."""
        self._close()
        await anyio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Closes the connection with RST, so that the peer sees an error."""
        with suppress(OSError):
            self._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)
        self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


def _error(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return anyio.ClosedResourceError()
    return anyio.BrokenResourceError()


async def close_gently(stream: LocalStream) -> None:
    """Closes a connection so that what was sent last arrives, though more may be coming: closing
    with unread bytes would send RST, which overtakes it."""
    with anyio.move_on_after(_FAREWELL), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        await stream.send_eof()
        for _ in range(_DISCARDED):
            await stream.receive()
    await stream.aclose()


async def accept_forever(
    listening: sockets.socket, handler: Callable[[LocalStream], Awaitable[None]]
) -> None:
    """Accepts connections until cancelled, and runs ``handler`` for each in a task. The handler
    closes its stream; if it fails, the stream is reset and the failure logged."""
    told = -math.inf
    async with anyio.create_task_group() as tasks:
        while True:
            await anyio.wait_readable(listening)
            try:
                for _ in range(_BURST):
                    accepted, _ = listening.accept()
                    tasks.start_soon(_handle, LocalStream(accepted), handler)
            except (BlockingIOError, ConnectionError):
                # None is pending, or it was reset before it was accepted.
                continue
            except OSError as error:
                # No descriptor is left.
                if (now := anyio.current_time()) - told >= _TELL_EVERY:
                    told = now
                    log.warning("accept_failed", reason=error.strerror)
                await anyio.sleep(_AGAIN)


async def _handle(stream: LocalStream, handler: Callable[[LocalStream], Awaitable[None]]) -> None:
    try:
        # What is forwarded was put together by its sender.
        with suppress(OSError):
            stream.extra(SocketAttribute.raw_socket).setsockopt(
                sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1
            )
        await handler(stream)
    except Exception as error:
        log.error("connection_failed", exc_info=error)
    finally:
        stream.reset()


async def connect(host: str, port: int) -> LocalStream:
    """Connects to a TCP service; each address of the name is tried.

    Raises:
        NotFound: the name has no address.
        ConnectionRefused: nothing listens there.
        ConnectionFailed: it cannot be reached.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=sockets.SOCK_STREAM)
    except OSError as error:
        raise NotFound(
            f"no such host: {host}",
            hint="this end is of the local network: agents are at the other",
        ) from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            return LocalStream(await _connect(sockets.socket(family, kind, protocol), address))
        except OSError as error:
            failure = error
    reason = failure.strerror if failure is not None else "it has no address"
    cls = ConnectionRefused if isinstance(failure, ConnectionRefusedError) else ConnectionFailed
    raise cls(f"cannot connect to {host} port {port}: {reason}") from failure


async def _connect(socket: sockets.socket, address: tuple[Any, ...]) -> sockets.socket:
    try:
        socket.setblocking(False)
        number = socket.connect_ex(address)
        if number == errno.EINPROGRESS:
            await anyio.wait_writable(socket)
            number = socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    except BaseException:
        socket.close()
        raise
    return socket
