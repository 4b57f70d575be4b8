"""The driver SDK for anyio: asyncio, uvloop and Trio."""

from __future__ import annotations

import socket as sockets
import time
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack import wellknown
from pilotstack.client import _frames as f
from pilotstack.client import framed
from pilotstack.client._keeping import Keeper
from pilotstack.client._opening import Opening
from pilotstack.client._serving import log
from pilotstack.client._session import (
    Accepted,
    Answer,
    Greeted,
    Opened,
    Received,
    reply_json,
    unavailable,
)
from pilotstack.client._socket import beside
from pilotstack.client._stream import Stream
from pilotstack.client._turns import SharedReader
from pilotstack.client._wire import (
    CLOSE,
    DAEMON_GONE,
    DIAL,
    GRACE,
    PATIENCE,
    SETUP,
    Ending,
    Wire,
    closed,
    forked,
    gone,
)
from pilotstack.client.control import ControlCalls
from pilotstack.client.framed import FramedLink
from pilotstack.client.listeners import DatagramSocket, FramedListener, Listener
from pilotstack.client.networks import NetworkCalls
from pilotstack.client.trust import TrustMethods
from pilotstack.errors import InvalidArgument, NotRunning, PilotError, TimedOut
from pilotstack.types import Address, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

    from pilotstack.client._session import Event
    from pilotstack.types import Congestion


@contextmanager
def limit(seconds: float, what: str = "the daemon did not answer in time") -> Iterator[None]:
    """Ends what is inside by :exc:`TimedOut` after so many seconds."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimedOut(what, hint="it may be stopped or overloaded")


@contextmanager
def suppress_refusal() -> Iterator[None]:
    """A refusal is an answer, too."""
    try:
        yield
    except (NotRunning, TimedOut):
        raise
    except PilotError:
        pass


class _Waiter:
    """Somebody who waits for something that arrives on the daemon's socket."""

    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.event = anyio.Event()


class Driver(ControlCalls, TrustMethods, NetworkCalls, SharedReader):
    """A connection to the local daemon; use it as an async context manager.

    There is no background task unless ``reconnect`` is given: whoever waits for the daemon reads
    for everybody. A cancelled call leaves the driver usable.

    Args:
        socket_path: the daemon's socket; see :func:`pilotstack.wellknown.default_socket`.
        framed: use the dialect of existing daemons, in which stream data passes the control
            socket. It is used anyway when the daemon does not know ours; datagrams and paths need
            ours.
        timeout: seconds that the daemon has for an answer.
        reconnect: when the daemon ends, connect to the next one and listen, bind and forward there
            again. Open streams break; calls wait for the new daemon within their time.
        on_disconnect: called without arguments when the daemon ended, if ``reconnect``.
        on_reconnect: called without arguments when everything is as before, if ``reconnect``. Both
            may be plain or async functions; what they raise is logged.

    Raises:
        NotRunning: on entry, when no daemon answers there.
        PermissionDenied: on entry, when the socket is not for this user.
        TimedOut: on entry, when the daemon does not greet within 10 s.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        framed: bool = False,
        timeout: float = PATIENCE,
        reconnect: bool = False,
        on_disconnect: Callable[[], Any] | None = None,
        on_reconnect: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._is_framed = framed
        self._timeout = f.seconds(timeout)
        self._control: FramedLink | None = None
        self._path = Path(socket_path) if socket_path else wellknown.default_socket()
        self._wire: Wire | None = None
        self._is_up = False
        self._is_closed = False
        self._greeting: Greeted | None = None
        self._waiters: dict[int, _Waiter] = {}
        self._sending = anyio.Lock()
        self._listeners: dict[int, Listener] = {}
        self._datagrams: dict[int, DatagramSocket] = {}
        self._forwards: dict[bytes, bytes] = {}
        self._own: Address | None = None
        self._lost = 0
        self._keeper = Keeper(self, on_disconnect, on_reconnect) if reconnect else None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "connected" if self._is_up else "not connected"
        if self._control is not None and not self._is_closed:
            state = "connected, framed"
        if self._wire is not None and self._wire.is_forked:
            state = "another process's"
        count = len(self._listeners)
        ports = f", {count} listener{'s' * (count > 1)}" if count else ""
        return f"<Driver {self._path} {state}{ports}>"

    async def __aenter__(self) -> Driver:
        self._is_closed = False
        if self._is_framed or not await self._connect():
            self._is_framed = True
            with limit(min(SETUP, self._timeout), f"the daemon at {self._path} does not answer"):
                self._control = await FramedLink.open(self._path)
            return self
        self._is_up = True
        if self._keeper is not None:
            await self._keeper.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
        if self._keeper is not None:
            await self._keeper.stop()

    async def aclose(self) -> None:
        """Closes the session: listeners and datagram sockets end, streams live on."""
        self._is_closed = True
        if self._wire is not None:
            if not self._wire.is_closed and not self._wire.is_forked:
                with suppress(PilotError):
                    self._pump()
            self._down(self._wire)
        if self._control is not None:
            self._control.close()
        if self._keeper is not None:
            self._keeper.cancel()
        await anyio.lowlevel.checkpoint()

    async def _connect(self) -> bool:
        """Opens a session. ``False`` if the daemon knows only the framed dialect."""
        self._waiters = {}
        with limit(min(SETUP, self._timeout), f"the daemon at {self._path} does not greet"):
            wire = await self._open_wire()
            try:
                self._greeting = None
                await self._flush(wire, wire.session.hello())
                greeting = await self._greeted(wire)
                if greeting.error is not None:
                    raise greeting.error
            except BaseException:
                self._down(wire)
                raise
        if not greeting.is_extended:
            self._down(wire)
        return greeting.is_extended

    async def _greeted(self, wire: Wire) -> Greeted:
        while self._greeting is None:
            wire.check()
            await self._wait(anyio.Event())
        return self._greeting

    async def _open_wire(self) -> Wire:
        wire = self._wire = Wire(await framed.opened(self._path), self._path)
        wire.on_close = anyio.notify_closing
        return wire

    def _down(self, wire: Wire) -> None:
        """The session is over, whoever ended it."""
        wire.close()
        if wire is not self._wire:
            return
        self._is_up = False
        if self._keeper is not None:
            self._keeper.down()
        for listener in self._listeners.values():
            listener._wake()
        for datagrams in self._datagrams.values():
            datagrams._wake()
        for waiter in self._waiters.values():
            waiter.event.set()
        self._wake_sleepers()

    def _open(self) -> sockets.socket:
        if self._is_framed:
            raise unavailable()
        if self._wire is None:
            raise closed()
        self._wire.check()
        return self._wire.socket

    async def _ready(self) -> Wire:
        """The session, once there is one."""
        while True:
            wire = self._wire
            if self._is_framed:
                raise unavailable()
            if wire is not None and wire.is_forked:
                raise forked()
            if wire is not None and self._is_up and not wire.is_closed:
                return wire
            if self._is_closed or wire is None:
                raise closed()
            if self._keeper is None:
                raise gone()
            await self._keeper.up.wait()

    async def _idle(self, event: anyio.Event) -> None:
        """Waits for ``event`` or until something arrived; over the daemon's restart if asked."""
        await self._ready()
        with suppress(*((NotRunning,) if self._keeper is not None else ())):
            await self._wait(event)

    # Moving bytes

    async def _flush(self, wire: Wire, ticket: int) -> None:
        """Returns when a frame has left."""
        out = wire.session.out
        while not self._flush_now(wire) and not out.is_out(ticket):
            async with self._sending:
                if not self._flush_now(wire) and not out.is_out(ticket):
                    await self._until_writable(wire)

    async def _send(self, frame: bytes) -> None:
        """Sends a frame that nothing answers. If the task is cancelled when a part has left, the
        rest leaves before whatever is sent next."""
        wire = await self._ready()
        ticket = wire.session.out.put(frame)
        try:
            await anyio.lowlevel.checkpoint()
            await self._flush(wire, ticket)
        except BaseException:
            wire.session.out.withdraw(ticket)
            raise

    def _flush_now(self, wire: Wire) -> bool:
        try:
            return wire.flush()
        except NotRunning:
            self._down(wire)
            raise

    async def _until_writable(self, wire: Wire) -> None:
        """A daemon whose own output is not read takes nothing, so somebody reads meanwhile."""

        async def read() -> None:
            with suppress(PilotError):
                while True:
                    await self._wait(anyio.Event())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_writable(wire.socket)
            tasks.cancel_scope.cancel()

    def _send_now(self, wire: Wire) -> None:
        """Sends what nobody can wait for; what does not fit leaves with whatever is sent next."""
        with suppress(PilotError):
            self._flush_now(wire)

    def _pump(self) -> None:
        """Takes what has arrived, without waiting."""
        wire = self._wire
        if wire is None or wire.is_closed:
            return
        try:
            events = wire.drain()
        except PilotError:
            self._down(wire)
            raise
        for event in events:
            self._take(wire, event)
        if wire.session.lost:
            self._tell_lost(wire.session.lost)
        self._settle(wire)

    def _settle(self, wire: Wire) -> None:
        if wire.is_closed:
            self._down(wire)
        elif wire.session.out.next() is not None:
            self._send_now(wire)

    def _tell_lost(self, lost: int) -> None:
        if self._lost == 0:
            log.warning("this process may open no more files; streams are refused")
        self._lost = lost

    def _take(self, wire: Wire, event: Event) -> None:
        match event:
            case Greeted():
                self._greeting = event
            case Answer():
                waiter = self._waiters.pop(event.id)
                waiter.answer = event
                waiter.event.set()
            case Accepted():
                listener = self._listeners.get(event.port)
                if listener is None or not listener._put(event):
                    wire.session.refuse(event)
            case Received():
                if (datagrams := self._datagrams.get(event.port)) is not None:
                    datagrams._put(event.datagram)

    async def _judge(
        self, wire: Wire, connection_id: int, is_cut: bool, is_shut: bool
    ) -> str | None:
        """Why a stream ended other than by FIN, if it did."""
        if wire is self._wire and not wire.is_closed:
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

    async def _ask(self, wire: Wire, command: int, *parts: bytes, port: int = 0) -> Answer:
        # Whoever waits for an answer gives others their turn by that.
        await anyio.lowlevel.checkpoint_if_cancelled()
        waiters, waiter = self._waiters, _Waiter()
        pending = wire.session.ask(command, *parts, port=port)
        waiters[pending.id] = waiter
        try:
            await self._flush(wire, pending.ticket)
            while waiter.answer is None:
                wire.check()
                if waiter.event.is_set():
                    waiter.event = anyio.Event()
                await self._wait(waiter.event)
        except BaseException:
            waiters.pop(pending.id, None)
            if waiter.answer is not None:
                wire.session.give_back(waiter.answer, command)
            if not wire.is_closed and not wire.is_forked:
                wire.session.cancel(pending)
                self._send_now(wire)
            raise
        if waiter.answer.error is not None:
            raise waiter.answer.error
        return waiter.answer

    async def _request(
        self, command: int, *parts: bytes, port: int = 0, timeout: float | None = None
    ) -> Answer:
        with limit(self._timeout if timeout is None else timeout):
            return await self._ask(await self._ready(), command, *parts, port=port)

    async def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Asks the control plane something; see ``docs/reference/protocol/ipc.md``.

        Args:
            timeout: seconds, if other than the driver's.

        Returns:
            The JSON object of the reply.

        Raises:
            PilotError: the daemon's refusal.
            NotRunning: the daemon ended; whether it acted on the request is not known.
            TimedOut: it did not answer in time.
        """
        verb = f.u8(command, "command")
        if self._control is not None:
            with limit(self._timeout if timeout is None else timeout):
                control = self._control = await self._control.renewed(is_wanted=not self._is_closed)
                return reply_json(b"\0" + await control.request(f.frame(command, payload)))
        answer = await self._request(f.REQUEST, verb, payload, timeout=timeout)
        return reply_json(cast("bytes", answer.value))

    # Streams

    async def _address(self, host: Address | str) -> Address:
        return host if isinstance(host, Address) else (await self.resolve(host)).address

    async def _own_address(self) -> Address:
        if self._own is None:
            self._own = (await self.info()).address
        return self._own

    def dial(
        self,
        target: Target,
        *,
        timeout: float | None = None,
        no_delay: bool = False,
        congestion: Congestion | None = None,
    ) -> Opening[Stream]:
        """Opens a stream. Await it, or enter it with ``async with``.

        Args:
            target: ``"agent-b:80"``, ``("agent-b", 80)``, ``"0:0000.0000.002A:1000"``, or address
                and port.
            timeout: seconds; 25 unless given. Looking up the name counts.
            no_delay: send small writes at once instead of waiting up to 40 ms for an
                acknowledgement.
            congestion: how the flight is limited: ``"cubic"`` (RFC 9438), ``"bbr"`` (for paths
                that lose packets at random) or ``"reno"``; the daemon's default unless given.

        Raises:
            InvalidArgument: the target, or the name of the controller, makes no sense.
            NotFound: nobody has that name.
            ConnectionRefused: nothing listens on that port.
            ConnectionFailed: the node cannot be reached.
            TimedOut: no answer in time.
            Unavailable: this process may open no more files.
        """
        return Opening(self._dial(target, timeout, no_delay, congestion))

    async def _dial(
        self,
        target: Target,
        timeout: float | None,
        no_delay: bool,
        congestion: Congestion | None,
    ) -> Stream:
        seconds = DIAL if timeout is None else f.seconds(timeout)
        options = f.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        begin = time.monotonic()
        with limit(seconds + GRACE, "dial timeout"):
            address = await self._address(host)
            if self._is_framed:
                if congestion is not None:
                    raise InvalidArgument("a framed stream has the daemon's congestion controller")
                return await framed.dial(self._path, address, port, timeout)
            wire = await self._ready()
            left = max(1, int((begin + seconds - time.monotonic()) * 1000))
            endpoint = f.endpoint(address, port)
            answer = await self._ask(wire, f.OPEN_STREAM, endpoint, bytes((options,)), f.u32(left))
        opened = cast("Opened", answer.value)
        remote = SocketAddress(address, port)
        return self._stream(wire, opened.fd, opened.connection_id, opened.local, remote)

    def _stream(
        self, wire: Wire, fd: int, connection_id: int, local: SocketAddress, remote: SocketAddress
    ) -> Stream:
        def judge(connection_id: int, is_cut: bool, is_shut: bool) -> Awaitable[str | None]:
            return self._judge(wire, connection_id, is_cut, is_shut)

        socket = sockets.socket(fileno=fd)
        stream = Stream(socket, connection_id, local, remote, judge, beside(wire))
        stream._wire = wire
        return stream

    def listen(
        self, port: int = 0, *, backlog: int = 0, path: str | os.PathLike[str] | None = None
    ) -> Opening[Listener]:
        """Takes streams on a port of ours. Await it, or enter it with ``async with``.

        Args:
            port: 1 to 65,535, or 0 for any that is free.
            backlog: ignored by current daemons.
            path: instead of handing streams over, the daemon connects to this Unix socket for each
                (``uvicorn --uds`` and the like). The returned listener then gives none itself.

        Raises:
            AlreadyExists: the port is taken.
        """
        return Opening(self._listen(port, backlog, path))

    async def _listen(
        self, port: int, backlog: int, path: str | os.PathLike[str] | None
    ) -> Listener:
        place = f.path(path) if path is not None else b""
        if self._is_framed and f.port(port) and path is None:
            with limit(self._timeout):
                return await FramedListener.make(self, port)
        parts = (f.u16(f.port(port)), f.u16(f.port(backlog)), place)
        listener = Listener(self, await self._own_address(), place)
        if port:
            # Streams may arrive in one read with the answer.
            if port in self._listeners:
                raise InvalidArgument(f"port {port} already has a listener")
            self._listeners[port] = listener
        try:
            answer = await self._request(f.LISTEN_STREAMS, *parts, port=port)
        except BaseException:
            self._listeners.pop(port, None)
            listener._refuse_all()
            raise
        listener.port = cast("int", answer.value)
        self._listeners[listener.port] = listener
        return listener

    async def forward(self, path: str | os.PathLike[str], target: Target) -> None:
        """Makes a Unix socket whose connections are dialled on to ``target``, until this driver is
        closed (``curl --unix-socket`` and the like).

        Raises:
            AlreadyExists: the path exists.
        """
        host, port = parse_target(target)
        place = f.path(path)
        endpoint = f.endpoint(await self._address(host), port)
        await self._request(f.FORWARD_PATH, endpoint, place)
        self._forwards[place] = endpoint

    def datagram(self, port: int = 0) -> Opening[DatagramSocket]:
        """Sends and takes datagrams on a port of ours; 0 means any. Await it, or enter it with
        ``async with``.

        Raises:
            AlreadyExists: the port is taken.
        """
        return Opening(self._datagram(port))

    async def _datagram(self, port: int) -> DatagramSocket:
        wanted = f.u16(f.port(port))
        answer = await self._request(f.BIND_DATAGRAMS, wanted, port=port)
        bound = cast("int", answer.value)
        datagrams = self._datagrams[bound] = DatagramSocket(self, bound)
        return datagrams

    async def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once.

        Returns when the daemon has done so: who closes the stream before would send FIN.
        """
        wire = stream._wire
        if wire is not None and not wire.is_closed:
            wire.check()
            wire.session.abort(stream.connection_id)
            self._send_now(wire)
            with suppress(NotRunning, TimedOut), limit(CLOSE):
                await self._sign_of_life(wire)
        await anyio.lowlevel.checkpoint()

    async def _sign_of_life(self, wire: Wire) -> None:
        """Returns when the daemon has acted on everything sent so far."""
        with suppress_refusal():
            await self._ask(wire, f.REQUEST, bytes((f.CLOSE,)), f.u32(0))

    async def disconnect(self, connection_id: int) -> None:
        """Ends any connection of the daemon, also one of another program.

        Raises:
            NotFound: there is none with this number.
        """
        number = f.u32(connection_id, "connection")
        if self._control is not None:
            await self._control.send(f.frame(f.CLOSE, number))
            return
        wire = await self._ready()
        wire.session.disconnected(connection_id)
        await self.call(f.DISCONNECT, number)


def dial(
    target: Target,
    *,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    no_delay: bool = False,
    congestion: Congestion | None = None,
) -> Opening[Stream]:
    """Opens a stream in one line; its driver is closed with it. See :meth:`Driver.dial`."""

    async def call() -> Stream:
        driver = Driver(socket_path)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(driver)
            stream = await driver.dial(
                target, timeout=timeout, no_delay=no_delay, congestion=congestion
            )
            stream._on_close = driver.aclose
            stack.pop_all()
            return stream

    return Opening(call())


def listen(
    port: int = 0, *, socket_path: str | os.PathLike[str] | None = None
) -> Opening[Listener]:
    """Listens in one line; the driver behind it is closed with it. See :meth:`Driver.listen`."""

    async def call() -> Listener:
        driver = Driver(socket_path)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(driver)
            listener = await driver.listen(port)
            listener._on_close = driver.aclose
            stack.pop_all()
            return listener

    return Opening(call())
