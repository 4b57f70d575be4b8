"""Streams as frames on the control socket: the dialect of daemons without our extension.

Such a daemon answers in order and without ids, and one blocked request holds up a whole socket. So
every dialled stream and every listener gets a socket of its own, with one request at a time.
"""

from __future__ import annotations

import os
import socket as sockets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from pilotstack.client import _frames as f
from pilotstack.client._outbox import Outbox
from pilotstack.client._stream import READ, Stream, view_of
from pilotstack.client._turns import SharedReader
from pilotstack.client._wire import (
    DAEMON_GONE,
    close_after_fork,
    closed,
    connect,
    forked,
    gone,
    new_socket,
)
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    ConnectionRefused,
    NotFound,
    PilotError,
    TimedOut,
)
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from pathlib import Path

_READ = 1 << 18
#: Bytes of one Send; existing daemons segment it and hold up the socket meanwhile.
_SEND = 1 << 16
#: Streams kept for a listener that nobody asks; later ones are closed.
MAX_BACKLOG = 4096
#: The longest pause between attempts to connect to a daemon whose queue is full.
_PAUSE = 0.25


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


async def opened(path: Path) -> sockets.socket:
    """A socket that is connected to a daemon; waits while the daemon's queue is full."""
    socket = new_socket()
    try:
        pause = 0.01
        while not connect(socket, path):
            await anyio.sleep(pause)
            pause = min(2 * pause, _PAUSE)
    except BaseException:
        socket.close()
        raise
    return socket


class Inbox:
    """What arrived for one stream and was not read."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.is_over = False
        #: The link ended before the stream did.
        self.is_lost = False
        self.event = anyio.Event()


class FramedLink(SharedReader):
    """One socket to a daemon. Made by :meth:`open`."""

    def __init__(self, socket: sockets.socket, path: Path) -> None:
        super().__init__()
        self._path = path
        self._bytes = bytearray()
        self._out = Outbox()
        self._inboxes: dict[int, Inbox] = {}
        self._reply: tuple[int, bytes] | None = None
        self._replied = anyio.Event()
        self._requesting = anyio.Lock()
        self._sending = anyio.Lock()
        self.accepted: deque[tuple[int, SocketAddress]] = deque()
        self.accepting = anyio.Event()
        self._socket: sockets.socket | None = socket
        self._process = os.getpid()
        self._is_forked = False
        close_after_fork(self)

    @classmethod
    async def open(cls, path: Path) -> FramedLink:
        """Connects.

        Raises:
            NotRunning: no daemon answers.
        """
        return cls(await opened(path), path)

    async def renewed(self, *, is_wanted: bool) -> FramedLink:
        """This link, or a new one if it was closed by a request that was cancelled."""
        if self._socket is not None or not is_wanted or self.is_forked:
            return self
        return await FramedLink.open(self._path)

    def _after_fork(self) -> None:
        """Closes the copy of this process."""
        self._is_forked = True
        if self._socket is not None:
            self._socket.close()

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""
        return self._is_forked or self._process != os.getpid()

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
            with suppress(OSError):
                socket.shutdown(sockets.SHUT_RDWR)
            anyio.notify_closing(socket)
            socket.close()
        for inbox in self._inboxes.values():
            inbox.is_lost = inbox.is_lost or not inbox.is_over
            inbox.is_over = True
            inbox.event.set()
        self._replied.set()
        self.accepting.set()
        self._wake_sleepers()

    def _pump(self) -> None:
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
        position = 0
        while len(self._bytes) >= position + f.LENGTH_LEN:
            length = int.from_bytes(self._bytes[position : position + f.LENGTH_LEN])
            begin, end = position + f.LENGTH_LEN, position + f.LENGTH_LEN + length
            if length > f.MAX_FRAME:
                self.close()
                return
            if len(self._bytes) < end:
                break
            if length:
                self._take(self._bytes[begin], bytes(self._bytes[begin + 1 : end]))
            position = end
        del self._bytes[:position]

    def _take(self, command: int, payload: bytes) -> None:
        number = int.from_bytes(payload[:4])
        if command == f.RECV:
            inbox = self.inbox(number)
            inbox.chunks.append(payload[4:])
            inbox.event.set()
        elif command == f.ACCEPT:
            remote = SocketAddress(Address.unpack(payload[6:12]), int.from_bytes(payload[12:14]))
            if len(self.accepted) < MAX_BACKLOG:
                self.accepted.append((int.from_bytes(payload[2:6]), remote))
                self.accepting.set()
            else:
                self._out.put(f.frame(f.CLOSE, payload[2:6]))
        elif command == f.CLOSE_OK:
            inbox = self.inbox(number)
            inbox.is_over = True
            inbox.event.set()
        elif command != f.RECV_FROM:
            self._reply = (command, payload)
            self._replied.set()

    def inbox(self, connection_id: int) -> Inbox:
        """What arrives for a stream, also before anybody knows of it."""
        return self._inboxes.setdefault(connection_id, Inbox())

    def forget(self, connection_id: int) -> None:
        """Nobody reads this stream any more."""
        self._inboxes.pop(connection_id, None)

    async def send(self, frame: bytes) -> None:
        """Sends a frame. If the task is cancelled when a part has left, the rest leaves before
        whatever is sent next."""
        ticket = self._out.put(frame)
        try:
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
            self._reply = None
            try:
                await self.send(frame)
                command, payload = await self._next_reply()
            except BaseException:
                # An answer that comes late would be taken for the next one's.
                self.close()
                raise
        if command == f.ERROR:
            raise error_of(payload[2:].decode(errors="replace"))
        return payload

    async def _next_reply(self) -> tuple[int, bytes]:
        while True:
            reply, self._reply = self._reply, None
            if reply is not None:
                return reply
            self._open()
            self._replied = anyio.Event()
            await self._wait(self._replied)

    async def wait(self, event: anyio.Event) -> None:
        """Returns when ``event`` is set or something arrived."""
        self._open()
        await self._wait(event)


async def _unknown(_connection_id: int, _is_cut: bool, _is_shut: bool) -> None:
    """The dialect does not tell why a stream ended."""


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
        ours, theirs = sockets.socketpair()
        theirs.close()
        super().__init__(ours, connection_id, local, remote, _unknown)
        self._link = link
        self._owns_link = owns_link
        self._inbox = link.inbox(connection_id)

    @property
    def has_half_close(self) -> bool:
        """It does not: ``send_eof`` closes."""
        return False

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes."""
        with self._reading:
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._open()
            inbox = self._inbox
            while not inbox.chunks:
                if inbox.is_lost:
                    raise self._broken(DAEMON_GONE)
                if inbox.is_over:
                    raise anyio.EndOfStream
                inbox.event = anyio.Event()
                await self._link.wait(inbox.event)
            chunk = inbox.chunks.popleft()
            if len(chunk) > max_bytes:
                inbox.chunks.appendleft(chunk[max_bytes:])
            return chunk[:max_bytes]

    async def send(self, item: bytes) -> None:
        """Hands all bytes to the daemon."""
        with self._writing:
            await self._turn()
            self._open()
            if self._is_finished:
                raise anyio.ClosedResourceError
            if self._inbox.is_over:
                raise self._broken(DAEMON_GONE if self._inbox.is_lost else "reset")
            view = view_of(item)
            for begin in range(0, len(view), _SEND):
                part = bytes(view[begin : begin + _SEND])
                await self._link.send(f.frame(f.SEND, f.u32(self.connection_id), part))

    async def send_eof(self) -> None:
        """Closes the stream; what was sent still arrives."""
        if not self._is_finished:
            self._is_finished = True
            await self._link.send(f.frame(f.CLOSE, f.u32(self.connection_id)))

    async def aclose(self) -> None:
        """Closes the stream; what was sent still arrives."""
        if self._socket is not None:
            with anyio.CancelScope(shield=True), suppress(PilotError):
                await self.send_eof()
            self._socket.close()
            self._socket = None
            self._link.forget(self.connection_id)
            if self._owns_link:
                # The daemon ends what its socket carries, so it must have seen Close.
                with anyio.move_on_after(1, shield=True), suppress(PilotError):
                    while not self._inbox.is_over:
                        self._inbox.event = anyio.Event()
                        self._link._inboxes[self.connection_id] = self._inbox
                        await self._link.wait(self._inbox.event)
                self._link.close()
        await anyio.lowlevel.checkpoint()


async def dial(path: Path, address: Address, port: int, timeout: float | None) -> FramedStream:
    """Opens a stream on a socket of its own."""
    link = await FramedLink.open(path)
    try:
        with anyio.fail_after(timeout):
            payload = await link.request(f.frame(f.DIAL, f.endpoint(address, port)))
    except BaseException as error:
        link.close()
        if isinstance(error, TimeoutError) and not isinstance(error, PilotError):
            raise TimedOut("dial timeout") from error
        raise
    local, remote = SocketAddress(Address(0, 0), 0), SocketAddress(address, port)
    return FramedStream(link, int.from_bytes(payload[:4]), local, remote, owns_link=True)
