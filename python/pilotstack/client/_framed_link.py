"""A socket to a daemon without our extension: one request at a time, and what arrives for streams.

Such a daemon answers in order and without ids, and one blocked request holds up the whole socket.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from pilotstack.client import _wire
from pilotstack.client._outbox import Outbox
from pilotstack.client._ports import Arrivals
from pilotstack.client._tasks import connected
from pilotstack.client._turns import SharedReader, Waiter, Waiting
from pilotstack.client._wire import (
    MAX_BACKLOG,
    MAX_DATAGRAMS,
    close_after_fork,
    closed,
    forked,
    gone,
)
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    ConnectionRefused,
    NotFound,
    PilotError,
    TimedOut,
)
from pilotstack.ipc import codes, frames
from pilotstack.types import Address, Datagram, SocketAddress

if TYPE_CHECKING:
    import socket as sockets

    from pilotstack.client._wire import Place

_UNEXPLAINED = (
    "the registry gives no reason: a name may be taken or malformed, a node unknown or private"
)
#: Bytes of a datagram's addresses and ports.
_HEAD = 10
#: Bytes read at once: less than what the allocator asks the system for each time.
_READ = (1 << 17) - 64


def error_of(text: str) -> PilotError:
    """The error for a daemon's text; there are no codes in this dialect."""
    if "refused" in text:
        return ConnectionRefused(
            text, hint="nothing listens on that port: check it, and that the peer's program runs"
        )
    if "timeout" in text:
        return TimedOut(text)
    if "already" in text:
        what = next((word for word in ("port", "hostname", "name") if word in text), "one")
        return AlreadyExists(text, hint=f"choose another {what}")
    if "not found" in text:
        return NotFound(text)
    hint = _UNEXPLAINED if text.endswith("request failed") else None
    return ConnectionFailed(text, hint=hint)


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

    def __init__(self, socket: sockets.socket, place: Place) -> None:
        super().__init__()
        self._place = place
        self._bytes = bytearray()
        self._out = Outbox()
        self._inboxes: dict[int, Inbox] = {}
        # Command and payload of a reply.
        self._replied: Waiting[tuple[int, bytes]] = Waiting()
        self._requesting = anyio.Lock(fast_acquire=True)
        self._sending = anyio.Lock(fast_acquire=True)
        self.accepted: deque[tuple[int, SocketAddress]] = deque()
        #: The port whose datagrams are kept; the daemon sends those of every port.
        self.datagram_port: int | None = None
        self.datagrams: deque[Datagram] = deque()
        self._accepting = Arrivals()
        self._socket: sockets.socket | None = socket
        self._process = _wire.process
        close_after_fork(self)

    @classmethod
    async def open(cls, place: Place) -> FramedLink:
        """Connects.

        Raises:
            NotRunning: no daemon answers.
        """
        return cls(await connected(place), place)

    async def renewed(self, *, is_wanted: bool) -> FramedLink:
        """This link, or a new one if it was closed by a request that was cancelled."""
        if self._socket is not None or not is_wanted or self.is_forked:
            return self
        return await FramedLink.open(self._place)

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
        elif command == codes.RECV_FROM:
            self._take_datagram(payload)
        else:
            self._replied.bring((command, payload))

    def _take_datagram(self, payload: bytes) -> None:
        if int.from_bytes(payload[8:10]) != self.datagram_port or len(payload) < _HEAD:
            return
        source = SocketAddress(Address.unpack(payload[:6]), int.from_bytes(payload[6:8]))
        if len(self.datagrams) < MAX_DATAGRAMS:
            self.datagrams.append(Datagram(payload[_HEAD:], source))
            self._accepting.wake()

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

    def check(self) -> None:
        """Raises if the link is closed."""
        self._open()

    async def arrival(self) -> None:
        """Returns when a stream was accepted, a datagram came, or the link was closed."""
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
