"""Streams as frames on the control socket: the dialect of daemons without our extension.

Such a daemon answers in order and without ids, and one blocked request holds up a whole socket. So
every dialled stream and every listener gets a socket of its own, with one request at a time.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pilotstack.client import _wire
from pilotstack.client._outbox import Outbox
from pilotstack.client._ports import Arrivals, StreamPort
from pilotstack.client._stream import READ, Stream, check_size, view_of
from pilotstack.client._tasks import connected
from pilotstack.client._turns import SharedReader, Waiter, Waiting
from pilotstack.client._wire import (
    CLOSE,
    DAEMON_GONE,
    MAX_BACKLOG,
    close_after_fork,
    closed,
    forked,
    gone,
)
from pilotstack.client.listeners import Listener
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    ConnectionRefused,
    NotFound,
    PilotError,
    TimedOut,
    Unavailable,
)
from pilotstack.ipc import codes, frames
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    import socket as sockets
    from pathlib import Path

    from pilotstack.client._socket import StreamSocket
    from pilotstack.client._stream import Attributes
    from pilotstack.client._tasks import TaskLink

#: Bytes read at once: less than what the allocator asks the system for each time.
_READ = (1 << 17) - 64
#: Bytes of one Send; existing daemons segment it and hold up the socket meanwhile.
_SEND = 1 << 16


def error_of(text: str) -> PilotError:
    """The error for a daemon's text; there are no codes in this dialect."""
    if "refused" in text:
        return ConnectionRefused(
            text, hint="nothing listens on that port: check it, and that the peer's program runs"
        )
    if "timeout" in text:
        return TimedOut(text)
    if "already" in text:
        return AlreadyExists(text, hint="choose another port")
    return NotFound(text) if "not found" in text else ConnectionFailed(text)


class Inbox:
    """What arrived for one stream and was not read."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.is_over = False
        #: The link ended before the stream did.
        self.is_lost = False
        self.waiter: Waiter | None = None

    def arrived(self) -> None:
        """Has the task that waits look."""
        if self.waiter is not None:
            self.waiter.done()

    async def next(self, link: FramedLink) -> None:
        """Returns when something arrived."""
        self.waiter = waiter = Waiter()
        try:
            await link.until(waiter)
        finally:
            if self.waiter is waiter:
                self.waiter = None


class FramedLink(SharedReader):
    """One socket to a daemon. Made by :meth:`open`."""

    def __init__(self, socket: sockets.socket, path: Path) -> None:
        super().__init__()
        self._path = path
        self._bytes = bytearray()
        self._out = Outbox()
        self._inboxes: dict[int, Inbox] = {}
        # Command and payload of a reply.
        self._replied: Waiting[tuple[int, bytes]] = Waiting()
        self._requesting = anyio.Lock(fast_acquire=True)
        self._sending = anyio.Lock(fast_acquire=True)
        self.accepted: deque[tuple[int, SocketAddress]] = deque()
        self._accepting = Arrivals()
        self._socket: sockets.socket | None = socket
        self._process = _wire.process
        close_after_fork(self)

    @classmethod
    async def open(cls, path: Path) -> FramedLink:
        """Connects.

        Raises:
            NotRunning: no daemon answers.
        """
        return cls(await connected(path), path)

    async def renewed(self, *, is_wanted: bool) -> FramedLink:
        """This link, or a new one if it was closed by a request that was cancelled."""
        if self._socket is not None or not is_wanted or self.is_forked:
            return self
        return await FramedLink.open(self._path)

    def _after_fork(self) -> None:
        """Closes the copy of this process."""
        if self._socket is not None:
            self._socket.close()

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""
        return self._process != _wire.process

    def _open(self) -> sockets.socket:
        if self.is_forked:
            raise forked()
        if self._socket is None:
            raise closed()
        return self._socket

    def close(self) -> None:
        """Closes the socket, and with it every stream and port it carries."""
        socket, self._socket = self._socket, None
        if socket is not None and not self.is_forked:
            _wire.shut(socket)
            anyio.notify_closing(socket)
            socket.close()
        for inbox in self._inboxes.values():
            inbox.is_lost = inbox.is_lost or not inbox.is_over
            inbox.is_over = True
            inbox.arrived()
        self._replied.done()
        self._accepting.wake()
        self.wake_all()

    # Arrivals

    def _pump(self, *, until_answered: bool = False) -> None:
        del until_answered
        while self._socket is not None:
            try:
                data = self._socket.recv(_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._bytes += data
            self._parse()
            if len(data) < _READ:
                return

    def _parse(self) -> None:
        position, size = 0, len(self._bytes)
        while size >= (begin := position + codes.LENGTH_LEN):
            length = int.from_bytes(self._bytes[position:begin])
            end = begin + length
            if length > codes.MAX_FRAME:
                self.close()
                return
            if size < end:
                break
            if length:
                self._take(self._bytes[begin], bytes(self._bytes[begin + 1 : end]))
            position = end
        del self._bytes[:position]

    def _take(self, command: int, payload: bytes) -> None:
        number = int.from_bytes(payload[:4])
        if command == codes.RECV:
            inbox = self.inbox(number)
            inbox.chunks.append(payload[4:])
            inbox.arrived()
        elif command == codes.ACCEPT:
            remote = SocketAddress(Address.unpack(payload[6:12]), int.from_bytes(payload[12:14]))
            if len(self.accepted) < MAX_BACKLOG:
                self.accepted.append((int.from_bytes(payload[2:6]), remote))
                self._accepting.wake()
            else:
                self._out.put(frames.frame(codes.CLOSE, payload[2:6]))
        elif command == codes.CLOSE_OK:
            inbox = self.inbox(number)
            inbox.is_over = True
            inbox.arrived()
        elif command != codes.RECV_FROM:
            self._replied.bring((command, payload))

    def catch_up(self) -> None:
        """Takes what has arrived, for tasks that only send: their stream may have ended."""
        if not self._is_reading:
            self._pump()

    def inbox(self, connection_id: int) -> Inbox:
        """What arrives for a stream, also before anybody knows of it."""
        return self._inboxes.setdefault(connection_id, Inbox())

    def forget(self, connection_id: int) -> None:
        """Nobody reads this stream any more."""
        self._inboxes.pop(connection_id, None)

    async def arrival(self) -> None:
        """Returns when a stream was accepted or the link was closed."""
        waiter = self._accepting.add()
        try:
            await self.until(waiter)
        finally:
            self._accepting.remove(waiter)

    # Sending

    async def send(self, frame: bytes) -> None:
        """Sends a frame; a checkpoint. If the task is cancelled when a part has left, the rest
        leaves before whatever is sent next."""
        ticket = self._out.put(frame)
        try:
            if self._flush() or self._out.is_out(ticket):
                # The frame is on its way meanwhile.
                await anyio.lowlevel.checkpoint()
                return
            async with self._sending:
                while not self._flush() and not self._out.is_out(ticket):
                    with suppress(anyio.ClosedResourceError):
                        await anyio.wait_writable(self._open())
        except BaseException:
            self._out.withdraw(ticket)
            raise

    def _flush(self) -> bool:
        while (frame := self._out.next()) is not None:
            socket = self._open()
            try:
                self._out.sent(socket.send(frame))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self.close()
                raise gone() from error
        return True

    async def request(self, frame: bytes) -> bytes:
        """Sends a request; the payload of its reply.

        Raises:
            PilotError: the daemon's refusal.
        """
        async with self._requesting:
            replied = self._replied = Waiting()
            try:
                await self.send(frame)
                await self.until(replied)
                if replied.value is None:
                    raise gone()
                command, payload = replied.value
            except BaseException:
                # An answer that comes late would be taken for the next one's.
                self.close()
                raise
        if command == codes.ERROR:
            raise error_of(payload[2:].decode(errors="replace"))
        return payload


class FramedStream(Stream):
    """A stream as frames. There is no half-close in this dialect: ``send_eof`` closes. A reset of
    the peer looks like its end, since the dialect has one frame for both."""

    def __init__(
        self,
        link: FramedLink,
        connection_id: int,
        local: SocketAddress,
        remote: SocketAddress,
        *,
        owns_link: bool,
    ) -> None:
        super().__init__(None, connection_id, local, remote)
        self._link = link
        self._owns_link = owns_link
        self._inbox = link.inbox(connection_id)

    @property
    def has_half_close(self) -> bool:
        """It does not: ``send_eof`` closes."""
        return False

    @property
    def extra_attributes(self) -> Attributes:
        """:class:`PilotAttribute`; there is no socket of its own."""
        attributes = dict(super().extra_attributes)
        del attributes[SocketAttribute.raw_socket]
        return attributes

    def socket(self) -> StreamSocket:
        """There is none."""
        raise Unavailable(
            "a framed stream has no socket of its own", hint="update the daemon to pilotstack's"
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes."""
        check_size(max_bytes)
        if self._is_reading:
            raise anyio.BusyResourceError("reading from")
        self._is_reading = True
        inbox = self._inbox
        try:
            if inbox.chunks:
                await anyio.lowlevel.checkpoint()
            while not inbox.chunks:
                self._check_open()
                if inbox.is_lost:
                    raise self._broken(DAEMON_GONE)
                if inbox.is_over:
                    await anyio.lowlevel.checkpoint()
                    raise anyio.EndOfStream
                await inbox.next(self._link)
            self._check_open()
            chunk = inbox.chunks.popleft()
            if len(chunk) <= max_bytes:
                return chunk
            inbox.chunks.appendleft(chunk[max_bytes:])
            return chunk[:max_bytes]
        finally:
            self._is_reading = False

    async def send(self, item: bytes) -> None:
        """Hands all bytes to the daemon."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        self._is_writing = True
        try:
            view = view_of(item)
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            if self._is_finished:
                raise anyio.ClosedResourceError
            self._link.catch_up()
            if self._inbox.is_over:
                raise self._broken(DAEMON_GONE if self._inbox.is_lost else "reset")
            if not view:
                await anyio.lowlevel.checkpoint()
            number = self.connection_id.to_bytes(4)
            for begin in range(0, len(view), _SEND):
                part = view[begin : begin + _SEND]
                await self._link.send(frames.frame(codes.SEND, number, part))
        finally:
            self._is_writing = False

    async def send_eof(self) -> None:
        """Closes the stream; what was sent still arrives."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        self._check_open()
        await self._finish()

    async def _finish(self) -> None:
        if self._is_finished:
            await anyio.lowlevel.checkpoint()
        else:
            self._is_finished = True
            await self._link.send(frames.frame(codes.CLOSE, self.connection_id.to_bytes(4)))

    async def aclose(self) -> None:
        """Closes the stream; what was sent still arrives."""
        if not self._is_closed:
            self._is_closed = True
            with anyio.CancelScope(shield=True), suppress(PilotError):
                await self._finish()
            self._inbox.arrived()
            if self._owns_link:
                # The daemon ends what its socket carries, so it must have seen Close.
                with anyio.move_on_after(CLOSE, shield=True), suppress(PilotError):
                    while not self._inbox.is_over:
                        await self._inbox.next(self._link)
                self._link.close()
            self._link.forget(self.connection_id)
            await self._closed()
        await anyio.lowlevel.checkpoint()


async def dial(path: Path, address: Address, port: int, timeout: float | None) -> FramedStream:
    """Opens a stream on a socket of its own."""
    link = await FramedLink.open(path)
    try:
        with anyio.fail_after(timeout):
            payload = await link.request(frames.frame(codes.DIAL, frames.endpoint(address, port)))
    except BaseException as error:
        link.close()
        if isinstance(error, TimeoutError) and not isinstance(error, PilotError):
            raise TimedOut("dial timeout") from error
        raise
    local, remote = SocketAddress(Address(0, 0), 0), SocketAddress(address, port)
    return FramedStream(link, int.from_bytes(payload[:4]), local, remote, owns_link=True)


class FramedListener(Listener):
    """A listener of the framed dialect, on a socket of its own."""

    def __init__(self, port: StreamPort, framed: FramedLink) -> None:
        super().__init__(port)
        self._framed = framed

    @classmethod
    async def make(cls, link: TaskLink, number: int, address: Address) -> FramedListener:
        """Binds the port."""
        framed = await FramedLink.open(link.path)
        try:
            await framed.request(frames.frame(codes.BIND, number.to_bytes(2)))
        except BaseException:
            framed.close()
            raise
        port = StreamPort(link, address, b"")
        port.number = number
        return cls(port, framed)

    async def accept(self) -> Stream:
        """The next stream."""
        framed = self._framed
        if framed.accepted and not self._port.is_closed:
            await anyio.lowlevel.checkpoint()
        while not framed.accepted or self._port.is_closed:
            if self._port.is_closed:
                raise anyio.ClosedResourceError
            await framed.arrival()
        connection_id, remote = framed.accepted.popleft()
        return FramedStream(framed, connection_id, self._address, remote, owns_link=False)

    async def aclose(self) -> None:
        """Frees the port, and ends its streams: they share its socket."""
        self._port.close()
        self._framed.close()
        await anyio.lowlevel.checkpoint()
