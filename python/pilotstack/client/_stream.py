"""A stream as an anyio byte stream over the socket that the daemon handed over."""

from __future__ import annotations

import socket as sockets
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pilotstack.client._socket import Judge, StreamSocket, broken, describe
from pilotstack.client._wire import close_after_fork, is_cut
from pilotstack.errors import InvalidArgument, InvalidType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from pilotstack.errors import StreamBroken
    from pilotstack.types import SocketAddress

    #: Typed attributes, as anyio has them.
    Attributes = Mapping[Any, Callable[[], Any]]

__all__ = ["PilotAttribute", "Stream"]

#: Bytes read at once unless asked otherwise.
READ = 1 << 18
#: Bytes read at once until reads fill that: the allocator asks the system for more each time.
_FIRST_READ = 1 << 16


class PilotAttribute(anyio.TypedAttributeSet):
    """Typed attributes of streams and listeners."""

    local_address: SocketAddress = anyio.typed_attribute()
    remote_address: SocketAddress = anyio.typed_attribute()
    connection_id: int = anyio.typed_attribute()


class Origin(Protocol):
    """The session that a stream came with, which alone knows how it ended."""

    async def judge(self, connection_id: int, is_cut: bool, is_shut: bool) -> str | None:
        """Why a stream ended other than by FIN, if it did.

        Args:
            is_cut: the daemon closed its end.
            is_shut: we sent FIN.
        """

    def plain(self) -> Judge:
        """The same for a stream that is another thread's now."""

    def end(self) -> None:
        """Closes the session, from any thread, when nobody waits for it."""


class Stream(anyio.abc.ByteStream):
    """A reliable stream to another agent.

    ``receive`` raises :exc:`anyio.EndOfStream` after the peer's FIN, and :exc:`StreamBroken` (an
    :exc:`anyio.BrokenResourceError` and a :exc:`ConnectionResetError`) when the stream ended
    otherwise. Every operation is a checkpoint. Cancelling one loses no byte that was received; a
    cancelled ``send`` may have sent a part.
    """

    _origin: Origin | None = None
    _on_close: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self,
        socket: sockets.socket | None,
        connection_id: int,
        local: SocketAddress,
        remote: SocketAddress,
    ) -> None:
        self._socket = socket
        self._is_closed = False
        self._reason: str | None = None
        self._is_at_end = False
        self._is_finished = False
        self._is_reading = False
        self._is_writing = False
        # Received by a call that was cancelled then.
        self._unread = b""
        self._read_size = _FIRST_READ
        self.connection_id = connection_id
        self.local_address = local
        self.remote_address = remote

    def _after_fork(self) -> None:
        """The stream is the parent's: a copy would keep it open there."""
        socket, self._socket, self._is_closed = self._socket, None, True
        if socket is not None:
            socket.close()

    def __repr__(self) -> str:
        state = "open" if is_open(self) else "closed"
        if self._reason is not None:
            state = f"broken: {self._reason}"
        return f"<Stream {self.connection_id} {describe(self)} {state}>"

    @property
    def has_half_close(self) -> bool:
        """Whether :meth:`send_eof` leaves the reading side open."""
        return True

    @property
    def extra_attributes(self) -> Attributes:
        """:class:`PilotAttribute` and the raw socket."""
        return {
            PilotAttribute.local_address: lambda: self.local_address,
            PilotAttribute.remote_address: lambda: self.remote_address,
            PilotAttribute.connection_id: lambda: self.connection_id,
            SocketAttribute.raw_socket: self._open,
        }

    def _open(self) -> sockets.socket:
        if self._socket is None:
            raise anyio.ClosedResourceError
        return self._socket

    def _broken(self, reason: str) -> StreamBroken:
        self._reason = reason
        return broken(self.remote_address, reason)

    async def _reset(self) -> StreamBroken:
        """The error after the system said that the stream broke, which it does once only."""
        return self._broken(await self._judge(True, False) or "reset")

    async def _end(self, socket: sockets.socket) -> None:
        """Raises what the end of the stream means."""
        if not self._is_at_end:
            reason = await self._judge(is_cut(socket), self._is_finished)
            if reason is not None:
                raise self._broken(reason)
            self._is_at_end = True
        raise anyio.EndOfStream

    async def _judge(self, is_cut: bool, is_shut: bool) -> str | None:
        if self._origin is None:
            return None
        return await self._origin.judge(self.connection_id, is_cut, is_shut)

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes."""
        check_size(max_bytes)
        if self._is_reading:
            raise anyio.BusyResourceError("reading from")
        self._is_reading = True
        has_waited = False
        try:
            while True:
                socket = self._open()
                if self._reason is not None:
                    raise self._broken(self._reason)
                try:
                    size = min(max_bytes, self._read_size)
                    data = self._take_unread(max_bytes) or socket.recv(size)
                except (BlockingIOError, InterruptedError):
                    await _wait(anyio.wait_readable, socket)
                    has_waited = True
                    continue
                except ConnectionError as error:
                    raise await self._reset() from error
                if not data:
                    if not has_waited:
                        await anyio.lowlevel.checkpoint()
                    await self._end(self._open())
                if len(data) == _FIRST_READ:
                    self._read_size = READ
                if not has_waited:
                    await self._take_turn(data)
                return data
        finally:
            self._is_reading = False

    def _take_unread(self, max_bytes: int) -> bytes:
        if not self._unread:
            return b""
        data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return data

    async def _take_turn(self, data: bytes) -> None:
        """Gives others their turn. Who is cancelled then has not received ``data``."""
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._unread = data + self._unread
            raise

    async def send(self, item: bytes) -> None:
        """Hands all bytes to the stream; waits while its buffers are full."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        self._is_writing = True
        has_waited = False
        try:
            view = view_of(item)
            await anyio.lowlevel.checkpoint_if_cancelled()
            while True:
                socket = self._open()
                if self._is_finished:
                    raise anyio.ClosedResourceError
                if self._reason is not None:
                    raise self._broken(self._reason)
                if not view:
                    break
                try:
                    view = view[socket.send(view) :]
                except (BlockingIOError, InterruptedError):
                    await _wait(anyio.wait_writable, socket)
                    has_waited = True
                except OSError as error:
                    raise await self._reset() from error
            if not has_waited:
                # The bytes are on their way meanwhile.
                await anyio.lowlevel.checkpoint()
        finally:
            self._is_writing = False

    async def send_eof(self) -> None:
        """Sends FIN after everything sent; reading goes on."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        await anyio.lowlevel.checkpoint()
        socket = self._open()
        if not self._is_finished:
            self._is_finished = True
            try:
                socket.shutdown(sockets.SHUT_WR)
            except OSError as error:
                raise await self._reset() from error

    async def aclose(self) -> None:
        """Closes both directions; what was sent still arrives."""
        socket, self._socket, self._is_closed = self._socket, None, True
        if socket is not None:
            if self._is_reading or self._is_writing:
                anyio.notify_closing(socket)
            socket.close()
            await self._closed()
        await anyio.lowlevel.checkpoint()

    async def _closed(self) -> None:
        if self._on_close is not None:
            with anyio.CancelScope(shield=True):
                await self._on_close()

    def socket(self) -> StreamSocket:
        """The stream as a blocking socket, for code that wants one. This object is closed then.

        Bytes that a cancelled ``receive`` left must be received first.
        """
        socket = self._open()
        if self._unread or self._origin is None:
            raise anyio.BusyResourceError("reading from")
        plain = StreamSocket._make(
            socket.detach(),
            self.connection_id,
            self.local_address,
            self.remote_address,
            self._origin.plain(),
        )
        self._socket, self._is_closed = None, True
        plain._is_shut, plain._reason = self._is_finished, self._reason
        if self._on_close is not None:
            # The session is this stream's own.
            plain._owner = self._origin.end
        return plain


def stream_of(
    fd: int, connection_id: int, local: SocketAddress, remote: SocketAddress, origin: Origin
) -> Stream:
    """The stream of a descriptor."""
    # Naming what it is saves asking the system.
    socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM, 0, fd)
    socket.setblocking(False)
    stream = Stream(socket, connection_id, local, remote)
    stream._origin = origin
    close_after_fork(stream)
    return stream


def origin_of(stream: Stream) -> Origin | None:
    """The session that a stream came with."""
    return stream._origin


def is_open(stream: Stream) -> bool:
    """Whether a stream was not closed here."""
    return not stream._is_closed


async def _wait(wait: Callable[[sockets.socket], Awaitable[None]], socket: sockets.socket) -> None:
    try:
        await wait(socket)
    except anyio.ClosedResourceError:
        raise
    except (OSError, ValueError) as error:
        # Closed by another task meanwhile.
        raise anyio.ClosedResourceError from error


def check_size(max_bytes: int) -> None:
    """Checks how much is to be received.

    Raises:
        InvalidArgument: it is not a positive integer.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
        raise InvalidType(f"max_bytes must be an integer, not {max_bytes!r}")
    if max_bytes < 1:
        raise InvalidArgument(f"max_bytes must be at least 1, not {max_bytes}")


def view_of(item: bytes) -> memoryview:
    """The bytes of what is to be sent.

    Raises:
        InvalidArgument: it has none.
    """
    try:
        return memoryview(item).cast("B")
    except TypeError as error:
        raise InvalidType(f"not bytes: {type(item).__name__}") from error
