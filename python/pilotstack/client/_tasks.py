"""A session for tasks: the link that drivers, listeners and datagram sockets of anyio share."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel

from pilotstack.client import calls
from pilotstack.client._serving import log
from pilotstack.client._session import Accepted, Answer, Greeted, Received, unavailable
from pilotstack.client._socket import beside
from pilotstack.client._stream import origin_of, stream_of
from pilotstack.client._turns import SharedReader, Waiter, Waiting
from pilotstack.client._wire import (
    CLOSE,
    DAEMON_GONE,
    SETUP,
    Ending,
    Wire,
    closed,
    forked,
    gone,
    open_socket,
)
from pilotstack.errors import NotRunning, PilotError, TimedOut

if TYPE_CHECKING:
    import socket as sockets
    from collections.abc import Iterator
    from typing import Any

    from pilotstack.client._keeping import Keeper
    from pilotstack.client._ports import DatagramPort, Port, StreamPort
    from pilotstack.client._session import Event
    from pilotstack.client._socket import Judge
    from pilotstack.client._stream import Stream
    from pilotstack.client._wire import Place
    from pilotstack.client.calls import Call
    from pilotstack.types import Address, SocketAddress

T = TypeVar("T")

#: Requests that wait for their answers, after which tasks that only ask read, too.
_MANY = 32
#: Seconds of the longest pause between attempts to connect to a daemon whose queue is full.
_PAUSE = 0.25


@contextmanager
def limit(seconds: float, what: str = "the daemon did not answer in time") -> Iterator[None]:
    """Ends what is inside by :exc:`TimedOut` after so many seconds."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise late(what)


def late(what: str = "the daemon did not answer in time") -> TimedOut:
    """The error for an answer that does not come."""
    return TimedOut(what, hint="it may be stopped or overloaded")


async def connected(place: Place) -> sockets.socket:
    """A socket that is connected to a daemon; waits while the daemon's queue is full."""
    pause = 0.01
    while (socket := open_socket(place)) is None:
        await anyio.sleep(pause)
        pause = min(2 * pause, _PAUSE)
    return socket


class TaskLink(SharedReader):
    """One session at a time, for many tasks.

    There is no background task unless there is a keeper: tasks that wait read for each other. A
    cancelled call leaves the link usable.

    Args:
        timeout: seconds that the daemon has for an answer.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        super().__init__()
        self.place = place
        self.timeout = timeout
        self.wire: Wire | None = None
        self.is_up = False
        self.is_closed = False
        #: The daemon does not hand over streams, or was not asked to.
        self.is_framed = False
        self.keeper: Keeper | None = None
        #: This node's address, once it was asked for.
        self.own: Address | None = None
        self.listeners: dict[int, StreamPort] = {}
        self.datagrams: dict[int, DatagramPort] = {}
        #: Where connections to Unix sockets of the daemon are dialled on to, by path.
        self.forwards: dict[bytes, bytes] = {}
        self._greeted: Waiting[Greeted] = Waiting()
        self._asked: dict[int, Waiting[Answer]] = {}
        # Set when there may be room in the socket, if a task waits for that.
        self._room: anyio.Event | None = None
        self._lost = 0

    # Beginning and end

    async def connect(self) -> bool:
        """Opens a session. ``False`` if the daemon knows only the framed dialect.

        Raises:
            NotRunning: no daemon answers.
            TimedOut: it does not greet.
        """
        self._asked = {}
        with limit(min(SETUP, self.timeout), f"the daemon at {self.place} does not greet"):
            wire = self.wire = Wire(await connected(self.place))
            wire.on_close = anyio.notify_closing
            try:
                waiter = self._greeted = Waiting()
                await self._flush(wire, wire.session.hello())
                await self.until(waiter)
                greeting = waiter.value
                if greeting is None:
                    raise gone()
                if greeting.error is not None:
                    raise greeting.error
            except BaseException:
                self.down(wire)
                raise
        if not greeting.is_extended:
            self.down(wire)
        return greeting.is_extended

    def close(self) -> None:
        """Ends the session. Streams live on."""
        self.is_closed = True
        wire = self.wire
        if wire is None:
            return
        if not wire.is_closed and not wire.is_forked:
            with suppress(PilotError):
                self._pump()
        self.down(wire)

    def down(self, wire: Wire) -> None:
        """A session is over, whoever ended it."""
        wire.close()
        if wire is not self.wire:
            return
        self.is_up = False
        if self.keeper is not None:
            self.keeper.down()
        for port in self.ports():
            port.wake()
        asked, self._asked = self._asked, {}
        self._greeted.done()
        for waiter in asked.values():
            waiter.done()
        self.wake_all()

    def ports(self) -> list[Port[Any]]:
        """What is bound."""
        return [*self.listeners.values(), *self.datagrams.values()]

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""
        return self.wire is not None and self.wire.is_forked

    async def ready(self) -> Wire:
        """The session, once there is one.

        Raises:
            NotRunning: there is none, and none will be.
            Unavailable: the daemon does not hand over streams.
        """
        if self.is_framed:
            raise unavailable()
        while True:
            wire = self.wire
            if wire is None:
                raise closed()
            if wire.is_forked:
                raise forked()
            if self.is_up and not wire.is_closed:
                return wire
            if self.is_closed:
                raise closed()
            if self.keeper is None:
                raise gone()
            await self.keeper.up.wait()

    async def arrival(self, waiter: Waiter) -> None:
        """Returns when something arrived at a port, which ends its waiter, and when the session
        ended, if there will be another.

        Raises:
            NotRunning: there is no session, and none will be.
        """
        is_away = not (self.is_up or self.is_closed or self.is_forked)
        if is_away and self.keeper is not None:
            # The keeper and whoever closes the port end this wait.
            await waiter.wait()
            return
        await self.ready()
        try:
            await self.until(waiter)
        except NotRunning:
            if self.keeper is None:
                raise

    def _open(self) -> sockets.socket:
        if self.is_framed:
            raise unavailable()
        if self.wire is None:
            raise closed()
        self.wire.check()
        return self.wire.socket

    # Asking and telling

    async def request(self, call: Call[T], timeout: float | None = None) -> T:
        """Asks, and waits for the answer.

        Args:
            timeout: seconds, if other than the link's.

        Raises:
            PilotError: the daemon's refusal.
            NotRunning: the daemon ended; whether it acted on the request is not known.
            TimedOut: it did not answer in time.
        """
        with limit(self.timeout if timeout is None else timeout):
            return await self.ask(await self.ready(), call)

    async def ask(self, wire: Wire, call: Call[T]) -> T:
        """As :meth:`request`, of one session and without a time limit."""
        # Nothing is asked for in a scope that is cancelled. Waiting gives others their turn.
        await anyio.lowlevel.checkpoint_if_cancelled()
        waiter: Waiting[Answer] = Waiting()
        asked = self._asked
        pending = wire.session.ask(call)
        asked[pending.id] = waiter
        try:
            if len(asked) > 1:
                # Others are asking: what they ask for in this turn leaves in the same write.
                await anyio.lowlevel.checkpoint()
                wire.check()
            await self._flush(wire, pending.ticket)
            if len(asked) % _MANY == 0:
                # The daemon takes no more while many of its answers wait.
                self._pump_aside()
            await self.until(waiter)
            answer = waiter.value
            if answer is None:
                wire.check()
                raise gone()
        except BaseException:
            asked.pop(pending.id, None)
            if waiter.value is not None:
                wire.session.give_back(waiter.value, call.command)
            if not wire.is_closed and not wire.is_forked:
                wire.session.cancel(pending)
                self._settle(wire)
            raise
        if answer.error is not None:
            raise answer.error
        return call.read(answer.value)

    async def send(self, frame: bytes) -> None:
        """Sends a frame that nothing answers. If the task is cancelled when a part has left, the
        rest leaves before whatever is sent next."""
        wire = await self.ready()
        ticket = wire.session.out.put(frame)
        try:
            await anyio.lowlevel.checkpoint()
            await self._flush(wire, ticket)
        except BaseException:
            wire.session.out.withdraw(ticket)
            raise

    def refuse(self, wire: Wire, accepted: Accepted) -> None:
        """Resets a stream that nobody takes."""
        wire.session.refuse(accepted)
        self._settle(wire)

    def unbind_datagrams(self, port: int) -> None:
        """Frees a port."""
        wire = self.wire
        if wire is not None and not wire.is_closed and not wire.is_forked:
            wire.session.unbind_datagrams(port)
            self._settle(wire)

    async def abort_in(self, wire: Wire, connection_id: int) -> None:
        """Resets a stream of a session, if that is still there."""
        if wire.is_closed:
            return
        wire.check()
        wire.session.abort(connection_id)
        self._settle(wire)
        with suppress(NotRunning, TimedOut), limit(CLOSE):
            await self._sign_of_life(wire)

    async def _sign_of_life(self, wire: Wire) -> None:
        """Returns when the daemon has acted on everything sent so far."""
        try:
            await self.ask(wire, calls.sign_of_life())
        except (NotRunning, TimedOut):
            raise
        except PilotError:
            # A refusal is an answer, too.
            pass

    # Moving bytes

    async def _flush(self, wire: Wire, ticket: int) -> None:
        """Returns when a frame has left."""
        out = wire.session.out
        while True:
            if self._room is not None:
                # Another task waits for room: there is none before.
                await self._room.wait()
                if out.is_out(ticket):
                    return
                continue
            if self._flush_now(wire) or out.is_out(ticket):
                return
            room = self._room = anyio.Event()
            try:
                await self._until_writable(wire)
            finally:
                self._room = None
                room.set()

    def _flush_now(self, wire: Wire) -> bool:
        try:
            return wire.flush()
        except NotRunning:
            self.down(wire)
            raise

    async def _until_writable(self, wire: Wire) -> None:
        """A daemon whose own output is not read takes nothing, so somebody reads meanwhile."""

        async def read() -> None:
            with suppress(PilotError):
                await self.until(Waiter())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_writable(wire.socket)
            tasks.cancel_scope.cancel()

    def _settle(self, wire: Wire) -> None:
        """Sends what nobody waits for; what does not fit leaves with whatever is sent next."""
        with suppress(PilotError):
            self._flush_now(wire)

    def _pump(self, *, until_answered: bool = False) -> None:
        wire = self.wire
        if wire is None or wire.is_closed:
            return
        try:
            events = wire.drain(until_answered=until_answered)
        except PilotError:
            self.down(wire)
            raise
        for event in events:
            self._take(wire, event)
        self._after(wire)

    def _after(self, wire: Wire) -> None:
        if wire.session.lost > self._lost:
            if self._lost == 0:
                log.warning("this process may open no more files; streams are refused")
            self._lost = wire.session.lost
        if wire.is_closed:
            self.down(wire)
        elif wire.session.out:
            self._settle(wire)

    def _take(self, wire: Wire, event: Event) -> None:
        match event:
            case Answer():
                self._asked.pop(event.id).bring(event)
            case Accepted():
                listener = self.listeners.get(event.port)
                if listener is None or not listener.put(wire, event):
                    wire.session.refuse(event)
            case Received():
                if (datagrams := self.datagrams.get(event.port)) is not None:
                    datagrams.put(event)
            case Greeted():
                self._greeted.bring(event)

    # Streams

    def stream(
        self, wire: Wire, fd: int, connection_id: int, local: SocketAddress, remote: SocketAddress
    ) -> Stream:
        """A stream that came with a session."""
        return stream_of(fd, connection_id, local, remote, _Origin(self, wire))

    async def abort(self, stream: Stream) -> None:
        """Resets a stream. Returns when the daemon has done so: who closes the stream before would
        send FIN."""
        origin = origin_of(stream)
        if isinstance(origin, _Origin):
            await origin.abort(stream.connection_id)

    async def judge(
        self, wire: Wire, connection_id: int, is_cut: bool, is_shut: bool
    ) -> str | None:
        """Why a stream ended other than by FIN, if it did; see :class:`Origin`."""
        if wire is self.wire and not wire.is_closed:
            with suppress(PilotError):
                self._pump_aside()
        ending = wire.ending(connection_id, is_cut=is_cut, is_shut=is_shut)
        if ending is Ending.FIN:
            return None
        if ending is not Ending.DOUBT:
            return ending
        try:
            # Whoever answers lives, and would have said first that the stream broke.
            with limit(SETUP):
                await self._sign_of_life(wire)
        except (NotRunning, TimedOut):
            return DAEMON_GONE
        return wire.session.failures.get(connection_id)


class _Origin:
    """The session of a link that streams came with."""

    __slots__ = ("_link", "_wire")

    def __init__(self, link: TaskLink, wire: Wire) -> None:
        self._link = link
        self._wire = wire

    async def judge(self, connection_id: int, is_cut: bool, is_shut: bool) -> str | None:
        """Why a stream ended other than by FIN, if it did."""
        return await self._link.judge(self._wire, connection_id, is_cut, is_shut)

    def plain(self) -> Judge:
        """The same for a stream that is another thread's now."""
        return beside(self._wire)

    def end(self) -> None:
        """Closes the session, from any thread: it is for calls that are over."""
        self._wire.on_close = None
        self._wire.close()

    async def abort(self, connection_id: int) -> None:
        """Resets a stream."""
        await self._link.abort_in(self._wire, connection_id)
