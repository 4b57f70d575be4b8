"""Streams as frames on the control socket: the dialect of daemons without our extension.

Every dialled stream and every listener gets a socket of its own, since one blocked request holds
up a whole socket.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute

from pilotstack.client._framed_link import FramedLink
from pilotstack.client._ports import StreamPort
from pilotstack.client._stream import READ, Stream, check_size, view_of
from pilotstack.client._wire import CLOSE, DAEMON_GONE
from pilotstack.client.listeners import DatagramSocket, Listener
from pilotstack.errors import ConnectionFailed, PilotError, TimedOut, Unavailable
from pilotstack.ipc import codes, frames
from pilotstack.types import Address, Datagram, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.client._socket import StreamSocket
    from pilotstack.client._stream import Attributes
    from pilotstack.client._tasks import TaskLink
    from pilotstack.client._wire import Place

#: Bytes of one Send; existing daemons segment it and hold up the socket meanwhile.
_SEND = 1 << 16


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


async def dial(place: Place, address: Address, port: int, timeout: float | None) -> FramedStream:
    """Opens a stream on a socket of its own."""
    link = await FramedLink.open(place)
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
        framed = await FramedLink.open(link.place)
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


class FramedDatagramSocket(DatagramSocket):
    """Datagrams of the framed dialect, on a socket of its own. They leave from a port that the
    daemon chooses, so answers come to nobody; and it hears what comes to its port although other
    programs hear it, too."""

    def __init__(
        self,
        framed: FramedLink,
        number: int,
        resolve: Callable[[Address | str], Awaitable[Address]],
    ) -> None:
        self._framed = framed
        self._resolve = resolve
        self._is_closed = False
        #: The daemon says whether it sent a datagram.
        self._is_confirmed = True
        self.port = number
        framed.datagram_port = number

    @classmethod
    async def make(
        cls, place: Place, number: int, resolve: Callable[[Address | str], Awaitable[Address]]
    ) -> FramedDatagramSocket:
        """Takes the datagrams of a port; for 0, none."""
        return cls(await FramedLink.open(place), number, resolve)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._framed.datagrams)} waiting, framed"
        return f"<DatagramSocket port {self.port} {state}>"

    async def receive(self) -> Datagram:
        """The next datagram."""
        framed = self._framed
        if framed.datagrams and not self._is_closed:
            await anyio.lowlevel.checkpoint()
        while self._is_closed or not framed.datagrams:
            if self._is_closed:
                raise anyio.ClosedResourceError
            framed.check()
            await framed.arrival()
        return framed.datagrams.popleft()

    async def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram; an existing daemon says at most that it tried."""
        if self._is_closed:
            raise anyio.ClosedResourceError
        contents = frames.datagram(data)
        host, port = parse_target(target)
        address = host if isinstance(host, Address) else await self._resolve(host)
        body = (frames.endpoint(address, port), contents)
        if self._is_confirmed:
            try:
                await self._framed.request(frames.frame(codes.SEND_TO_CONFIRM, *body))
            except ConnectionFailed as error:
                if "unknown command" not in error.message:
                    raise
                self._is_confirmed = False
            else:
                return
        await self._framed.send(frames.frame(codes.SEND_TO, *body))

    async def aclose(self) -> None:
        """Ends the socket."""
        self._is_closed = True
        self._framed.close()
        await anyio.lowlevel.checkpoint()
