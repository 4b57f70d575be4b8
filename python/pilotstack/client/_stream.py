"""A stream as an anyio byte stream over the socket that the daemon handed over."""

from __future__ import annotations

import socket as sockets
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pilotstack.client._frames import is_number
from pilotstack.client._socket import Judge, StreamSocket, broken, describe, without_session
from pilotstack.client._wire import close_after_fork, is_cut
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pilotstack.client._wire import Wire
    from pilotstack.errors import StreamBroken
    from pilotstack.types import SocketAddress

__all__ = ["PilotAttribute", "Stream"]

#: Bytes read at once unless asked otherwise.
READ = 1 << 18
#: Operations in a row that did not wait, after which other tasks get a turn.
_TURN = 8


class PilotAttribute(anyio.TypedAttributeSet):
    """Typed attributes of streams and listeners."""

    local_address: SocketAddress = anyio.typed_attribute()
    remote_address: SocketAddress = anyio.typed_attribute()
    connection_id: int = anyio.typed_attribute()


class Stream(anyio.abc.ByteStream):
    """A reliable stream to another agent.

    ``receive`` raises :exc:`anyio.EndOfStream` after the peer's FIN, and :exc:`StreamBroken` (an
    :exc:`anyio.BrokenResourceError` and a :exc:`ConnectionResetError`) when the stream ended
    otherwise. Cancelling any operation loses no byte that was received; a cancelled ``send`` may
    have sent a part.
    """

    def __init__(
        self,
        socket: sockets.socket,
        connection_id: int,
        local: SocketAddress,
        remote: SocketAddress,
        judge: Callable[[int, bool, bool], Awaitable[str | None]],
        plain_judge: Judge = without_session,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        socket.setblocking(False)
        self._socket: sockets.socket | None = socket
        self._judge = judge
        self._plain_judge = plain_judge
        #: The session that it came with, which alone knows its number.
        self._wire: Wire | None = None
        self._reason: str | None = None
        self._is_at_end = False
        self._on_close = on_close
        self._reading = anyio.ResourceGuard("reading from")
        self._writing = anyio.ResourceGuard("writing to")
        self._immediate = 0
        self._is_finished = False
        self.connection_id = connection_id
        self.local_address = local
        self.remote_address = remote
        close_after_fork(self)

    def _after_fork(self) -> None:
        """The stream is the parent's: a copy would keep it open there."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def __repr__(self) -> str:
        state = "closed" if self._socket is None else "open"
        if self._reason is not None:
            state = f"broken: {self._reason}"
        return f"<Stream {self.connection_id} {describe(self)} {state}>"

    @property
    def has_half_close(self) -> bool:
        """Whether :meth:`send_eof` leaves the reading side open."""
        return True

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
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
        reason = await self._judge(self.connection_id, True, False)
        return self._broken(reason or "reset")

    async def _end(self, socket: sockets.socket) -> None:
        """Raises what the end of the stream means."""
        if not self._is_at_end:
            reason = await self._judge(self.connection_id, is_cut(socket), self._is_finished)
            if reason is not None:
                raise self._broken(reason)
            self._is_at_end = True
        raise anyio.EndOfStream

    async def _turn(self) -> None:
        self._immediate += 1
        if self._immediate >= _TURN:
            self._immediate = 0
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.lowlevel.checkpoint_if_cancelled()

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes."""
        if not is_number(max_bytes) or max_bytes < 1:
            raise InvalidArgument("max_bytes must be a whole number of at least 1")
        with self._reading:
            await self._turn()
            if self._reason is not None:
                raise self._broken(self._reason)
            while True:
                socket = self._open()
                try:
                    data = socket.recv(max_bytes)
                except (BlockingIOError, InterruptedError):
                    self._immediate = 0
                    await self._wait(anyio.wait_readable, socket)
                    continue
                except ConnectionError as error:
                    raise await self._reset() from error
                if data:
                    return data
                await self._end(socket)

    async def _wait(
        self, wait: Callable[[sockets.socket], Awaitable[None]], socket: sockets.socket
    ) -> None:
        try:
            await wait(socket)
        except anyio.ClosedResourceError:
            raise
        except (OSError, ValueError) as error:
            # Closed by another task meanwhile.
            raise anyio.ClosedResourceError from error

    async def send(self, item: bytes) -> None:
        """Hands all bytes to the stream; waits while its buffers are full."""
        with self._writing:
            await self._turn()
            view = view_of(item)
            while view:
                socket = self._open()
                if self._is_finished:
                    raise anyio.ClosedResourceError
                try:
                    view = view[socket.send(view) :]
                except (BlockingIOError, InterruptedError):
                    self._immediate = 0
                    await self._wait(anyio.wait_writable, socket)
                except OSError as error:
                    raise await self._reset() from error

    async def send_eof(self) -> None:
        """Sends FIN after everything sent; reading goes on."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        with self._writing:
            if not self._is_finished:
                self._is_finished = True
                try:
                    self._open().shutdown(sockets.SHUT_WR)
                except OSError as error:
                    raise await self._reset() from error

    async def aclose(self) -> None:
        """Closes both directions; what was sent still arrives."""
        socket, self._socket = self._socket, None
        if socket is not None:
            anyio.notify_closing(socket)
            socket.close()
            if self._on_close is not None:
                with anyio.CancelScope(shield=True):
                    await self._on_close()
        await anyio.lowlevel.checkpoint()

    def socket(self) -> StreamSocket:
        """The stream as a blocking socket, for code that wants one. This object is closed then."""
        plain = StreamSocket._make(
            self._open().detach(),
            self.connection_id,
            self.local_address,
            self.remote_address,
            self._plain_judge,
        )
        self._socket = None
        plain._is_shut, plain._reason = self._is_finished, self._reason
        return plain


def view_of(item: bytes) -> memoryview:
    """The bytes of what is to be sent.

    Raises:
        InvalidArgument: it has none.
    """
    try:
        return memoryview(item).cast("B")
    except TypeError as error:
        raise InvalidArgument(f"not bytes: {type(item).__name__}") from error
