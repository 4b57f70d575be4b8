"""Streams as frames on the control socket: the dialect of daemons without our extension.

Such a daemon answers in order and without ids, and one blocked request holds up a whole socket. So
every dialled stream and every listener gets a socket of its own, with one request at a time.
"""

from __future__ import annotations

import socket as sockets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from pilotstack.client import _frames as f
from pilotstack.client._stream import READ, Stream
from pilotstack.client._turns import SharedReader
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    ConnectionRefused,
    NotFound,
    NotRunning,
    PilotError,
    TimedOut,
)
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from pathlib import Path

_READ = 1 << 18
#: Octets of one Send; existing daemons segment it and hold up the socket meanwhile.
_SEND = 1 << 16
_NO_DAEMON_HINT = "start the daemon with: pilotctl daemon start"


def error_of(text: str) -> PilotError:
    """The error for a daemon's text; there are no codes in this dialect."""
    if "refused" in text:
        return ConnectionRefused(text, hint="nothing listens on that port")
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
        self.event = anyio.Event()


class FramedLink(SharedReader):
    """One socket to a daemon.

    Raises:
        NotRunning: no daemon answers.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._octets = bytearray()
        self._inboxes: dict[int, Inbox] = {}
        self._reply: tuple[int, bytes] | None = None
        self._replied = anyio.Event()
        self._requesting = anyio.Lock()
        self._sending = anyio.Lock()
        self.accepted: deque[tuple[int, SocketAddress]] = deque()
        self.accepting = anyio.Event()
        socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            socket.setblocking(False)
            socket.connect(str(path))
        except OSError as error:
            socket.close()
            raise NotRunning(f"no daemon answers at {path}", hint=_NO_DAEMON_HINT) from error
        self._socket: sockets.socket | None = socket

    def _open(self) -> sockets.socket:
        if self._socket is None:
            raise NotRunning("the connection to the daemon is closed", hint=_NO_DAEMON_HINT)
        return self._socket

    def close(self) -> None:
        """Closes the socket, and with it every stream and port it carries."""
        socket, self._socket = self._socket, None
        if socket is not None:
            anyio.notify_closing(socket)
            socket.close()
        for inbox in self._inboxes.values():
            inbox.is_over = True
            inbox.event.set()
        self._replied.set()
        self.accepting.set()
        self._wake_sleepers()

    def _pump(self) -> None:
        while self._socket is not None:
            try:
                octets = self._socket.recv(_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                octets = b""
            if not octets:
                self.close()
                return
            self._octets += octets
            self._parse()
            if len(octets) < _READ:
                return

    def _parse(self) -> None:
        position = 0
        while len(self._octets) >= position + f.LENGTH_LEN:
            length = int.from_bytes(self._octets[position : position + f.LENGTH_LEN])
            begin, end = position + f.LENGTH_LEN, position + f.LENGTH_LEN + length
            if length > f.MAX_FRAME:
                self.close()
                return
            if len(self._octets) < end:
                break
            if length:
                self._take(self._octets[begin], bytes(self._octets[begin + 1 : end]))
            position = end
        del self._octets[:position]

    def _take(self, command: int, payload: bytes) -> None:
        number = int.from_bytes(payload[:4])
        if command == f.RECV:
            inbox = self.inbox(number)
            inbox.chunks.append(payload[4:])
            inbox.event.set()
        elif command == f.ACCEPT:
            remote = SocketAddress(Address.unpack(payload[6:12]), int.from_bytes(payload[12:14]))
            self.accepted.append((int.from_bytes(payload[2:6]), remote))
            self.accepting.set()
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
        """Sends a frame."""
        async with self._sending:
            view = memoryview(frame)
            while view:
                socket = self._open()
                try:
                    view = view[socket.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(socket)
                except OSError as error:
                    self.close()
                    raise NotRunning("the daemon went away", hint=_NO_DAEMON_HINT) from error

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


class FramedStream(Stream):
    """A stream as frames. There is no half-close in this dialect: ``send_eof`` closes."""

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
        super().__init__(ours, connection_id, local, remote, lambda _: None)
        self._link = link
        self._owns_link = owns_link
        self._inbox = link.inbox(connection_id)

    @property
    def has_half_close(self) -> bool:
        """It does not: ``send_eof`` closes."""
        return False

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` octets."""
        with self._reading:
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._open()
            inbox = self._inbox
            while not inbox.chunks:
                if inbox.is_over:
                    raise anyio.EndOfStream
                inbox.event = anyio.Event()
                await self._link.wait(inbox.event)
            chunk = inbox.chunks.popleft()
            if len(chunk) > max_bytes:
                inbox.chunks.appendleft(chunk[max_bytes:])
            return chunk[:max_bytes]

    async def send(self, item: bytes) -> None:
        """Hands all octets to the daemon."""
        with self._writing:
            await self._turn()
            self._open()
            if self._is_finished:
                raise anyio.ClosedResourceError
            if self._inbox.is_over:
                raise self._broken()
            view = memoryview(item).cast("B")
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
    link = FramedLink(path)
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
