"""The SDK for anyio: asyncio, uvloop and Trio."""

from __future__ import annotations

import functools
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from pilotstack.client import calls, framed
from pilotstack.client._framed_link import FramedLink
from pilotstack.client._keeping import Keeper
from pilotstack.client._opening import Opening
from pilotstack.client._ports import DatagramPort, StreamPort
from pilotstack.client._tasks import TaskLink, late, limit
from pilotstack.client._wire import DIAL, GRACE, PATIENCE, SETUP, place_of
from pilotstack.client.framed import FramedDatagramSocket, FramedListener
from pilotstack.client.listeners import DatagramSocket, Listener
from pilotstack.errors import InvalidArgument
from pilotstack.ipc import codes, frames
from pilotstack.ipc.layout import U32
from pilotstack.ipc.requests import Disconnect
from pilotstack.types import Address, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Any

    from pilotstack.client._keeping import Hook
    from pilotstack.client._stream import Stream
    from pilotstack.client._wire import InProcess
    from pilotstack.client.calls import Flow
    from pilotstack.ipc.layout import Request
    from pilotstack.types import Congestion

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=msgspec.Struct)


def awaited(
    flow: Callable[P, Flow[T]],
) -> Callable[Concatenate[Driver, P], Coroutine[Any, Any, T]]:
    """The method of a driver that awaits the answers of a flow."""

    @functools.wraps(flow)
    async def method(driver: Driver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await driver._run(flow(*args, **kwargs))

    calls.shape(method, flow)
    return method


class Driver:
    """A connection to the local daemon; use it as an async context manager.

    There is no background task unless ``reconnect`` is given: whoever waits for the daemon reads
    for everybody. A cancelled call leaves the driver usable.

    Args:
        socket_path: the daemon's socket; see :func:`pilotstack.wellknown.default_socket`. Or a
            daemon in this process, as of :class:`pilotstack.Node`.
        framed: use the dialect of existing daemons, in which stream data passes the control
            socket. It is used anyway when the daemon does not know ours; forwarded paths need
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
        socket_path: str | os.PathLike[str] | InProcess | None = None,
        *,
        framed: bool = False,
        timeout: float = PATIENCE,
        reconnect: bool = False,
        on_disconnect: Hook | None = None,
        on_reconnect: Hook | None = None,
    ) -> None:
        self._link = TaskLink(place_of(socket_path), frames.seconds(timeout))
        self._link.is_framed = framed
        self._control: FramedLink | None = None
        if reconnect:
            self._link.keeper = Keeper(self._link, on_disconnect, on_reconnect)

    def __repr__(self) -> str:
        link = self._link
        state = "closed" if link.is_closed else "connected" if link.is_up else "not connected"
        if self._control is not None and not link.is_closed:
            state = "connected, framed"
        if link.is_forked:
            state = "another process's"
        count = len(link.listeners)
        ports = f", {count} listener{'s' * (count > 1)}" if count else ""
        return f"<{type(self).__name__} {link.place} {state}{ports}>"

    async def __aenter__(self) -> Driver:
        link = self._link
        link.is_closed = False
        if link.is_framed or not await link.connect():
            link.is_framed = True
            seconds = min(SETUP, link.timeout)
            with limit(seconds, f"the daemon at {link.place} does not answer"):
                self._control = await FramedLink.open(link.place)
            return self
        link.is_up = True
        if link.keeper is not None:
            await link.keeper.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        finally:
            # Also when this is cancelled: a task group that was entered must be left.
            if self._link.keeper is not None:
                await self._link.keeper.stop()

    async def aclose(self) -> None:
        """Closes the session: listeners and datagram sockets end, streams live on."""
        self._link.close()
        if self._control is not None:
            self._control.close()
        if self._link.keeper is not None:
            self._link.keeper.cancel()
        await anyio.lowlevel.checkpoint()

    # Control calls

    async def ask(self, request: Request[A], *, timeout: float | None = None) -> A:
        """Asks the control plane something.

        Args:
            request: one of :mod:`pilotstack.ipc.requests` or
                :mod:`pilotstack.ipc.network_requests`.
            timeout: seconds, if other than the driver's.

        Raises:
            PilotError: the daemon's refusal.
            NotRunning: the daemon ended; whether it acted on the request is not known.
            TimedOut: it did not answer in time.
        """
        seconds = request.patience if timeout is None else timeout
        if self._control is None:
            return await self._link.request(calls.control(request), seconds)
        payload = frames.frame(request.command, request.pack())
        return request.decode(await self._framed_request(payload, seconds))

    async def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> calls.JsonObject:
        """Asks the control plane something by number; see ``docs/reference/protocol/ipc.md``.

        Args:
            timeout: seconds, if other than the driver's.

        Returns:
            The JSON object of the reply.

        Raises:
            PilotError: the daemon's refusal.
            NotRunning: the daemon ended; whether it acted on the request is not known.
            TimedOut: it did not answer in time.
        """
        call = calls.raw(command, payload)
        if self._control is None:
            return await self._link.request(call, timeout)
        return call.read(await self._framed_request(frames.frame(command, payload), timeout))

    async def _framed_request(self, frame: bytes, timeout: float | None) -> bytes:
        assert self._control is not None
        link = self._link
        with limit(link.timeout if timeout is None else timeout):
            control = await self._control.renewed(is_wanted=not link.is_closed)
            self._control = control
            return await control.request(frame)

    async def _run(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                request = flow.send(await self.ask(request))
        except StopIteration as end:
            value: T = end.value
            return value

    info = awaited(calls.info)
    peers = awaited(calls.peers)
    connections = awaited(calls.connections)
    resolve = awaited(calls.resolve)
    set_hostname = awaited(calls.set_hostname)
    set_visibility = awaited(calls.set_visibility)
    set_tags = awaited(calls.set_tags)
    deregister = awaited(calls.deregister)
    register = awaited(calls.register)
    rotate_key = awaited(calls.rotate_key)
    enroll_recovery = awaited(calls.enroll_recovery)

    node_of = awaited(calls.node_of)
    handshake = awaited(calls.handshake)
    pending = awaited(calls.pending)
    approve = awaited(calls.approve)
    reject = awaited(calls.reject)
    trusted = awaited(calls.trusted)
    untrust = awaited(calls.untrust)
    wait_for_trust = awaited(calls.wait_for_trust)

    networks = awaited(calls.networks)
    create_network = awaited(calls.create_network)
    join_network = awaited(calls.join_network)
    leave_network = awaited(calls.leave_network)
    members = awaited(calls.members)
    invite = awaited(calls.invite)
    invites = awaited(calls.invites)
    accept_invite = awaited(calls.accept_invite)
    reject_invite = awaited(calls.reject_invite)
    delete_network = awaited(calls.delete_network)
    rename_network = awaited(calls.rename_network)
    kick = awaited(calls.kick)
    broadcast = awaited(calls.broadcast)

    # Streams

    async def _address(self, host: Address | str) -> Address:
        return host if isinstance(host, Address) else (await self.resolve(host)).address

    async def _own_address(self) -> Address:
        if self._link.own is None:
            self._link.own = (await self.info()).address
        return self._link.own

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
            InvalidArgument: the target, or the name of the controller, is malformed.
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
        seconds = DIAL if timeout is None else frames.seconds(timeout)
        options = frames.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        link = self._link
        with anyio.move_on_after(seconds + GRACE):
            address, end = host, time.monotonic() + seconds
            if not isinstance(address, Address):
                address = (await self.resolve(address)).address
            if link.is_framed:
                if congestion is not None:
                    raise InvalidArgument("a framed stream has the daemon's congestion controller")
                return await framed.dial(link.place, address, port, timeout)
            wire = await link.ready()
            call = calls.open_stream(address, port, options, end - time.monotonic())
            opened = await link.ask(wire, call)
            remote = SocketAddress(address, port)
            return link.stream(wire, opened.fd, opened.connection_id, opened.local, remote)
        raise late("dial timeout")

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
        link = self._link
        place = frames.path(path) if path is not None else b""
        if link.is_framed and frames.port(port) and path is None:
            with limit(link.timeout):
                return await FramedListener.make(link, port, await self._own_address())
        calls.listen_streams(port, backlog, place)
        if port in link.listeners:
            raise InvalidArgument(f"port {port} already has a listener")
        bound = StreamPort(link, await self._own_address(), place)
        await bound.bind(port, backlog)
        return Listener(bound)

    async def forward(self, path: str | os.PathLike[str], target: Target) -> None:
        """Makes a Unix socket whose connections are dialled on to ``target``, until this driver is
        closed (``curl --unix-socket`` and the like).

        Raises:
            AlreadyExists: the path exists.
        """
        host, port = parse_target(target)
        place = frames.path(path)
        endpoint = frames.endpoint(await self._address(host), port)
        await self._link.request(calls.forward_path(endpoint, place))
        self._link.forwards[place] = endpoint

    def datagram(self, port: int = 0) -> Opening[DatagramSocket]:
        """Sends and takes datagrams on a port of ours; 0 means any. Await it, or enter it with
        ``async with``.

        Raises:
            AlreadyExists: the port is taken.
        """
        return Opening(self._datagram(port))

    async def _datagram(self, port: int) -> DatagramSocket:
        if self._link.is_framed:
            place = self._link.place
            return await FramedDatagramSocket.make(place, frames.port(port), self._address)
        bound = DatagramPort(self._link)
        await bound.bind(port)
        return DatagramSocket(bound, self._address)

    async def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once.

        Returns when the daemon has done so: who closes the stream before would send FIN.
        """
        await self._link.abort(stream)
        await anyio.lowlevel.checkpoint()

    async def disconnect(self, connection_id: int) -> None:
        """Ends any connection of the daemon, also one of another program.

        Raises:
            NotFound: there is none with this number.
        """
        number = U32.pack(connection_id, "connection")
        if self._control is not None:
            await self._control.send(frames.frame(codes.CLOSE, number))
            return
        (await self._link.ready()).session.disconnected(connection_id)
        await self.ask(Disconnect(connection_id))


def dial(
    target: Target,
    *,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    no_delay: bool = False,
    congestion: Congestion | None = None,
) -> Opening[Stream]:
    """Opens a stream in one line; its driver is closed with it. See :meth:`Driver.dial`."""

    def begin(driver: Driver) -> Awaitable[Stream]:
        return driver.dial(target, timeout=timeout, no_delay=no_delay, congestion=congestion)

    return Opening(_owning(Driver(socket_path), begin))


def listen(
    port: int = 0, *, socket_path: str | os.PathLike[str] | None = None
) -> Opening[Listener]:
    """Listens in one line; the driver behind it is closed with it. See :meth:`Driver.listen`."""

    def begin(driver: Driver) -> Awaitable[Listener]:
        return driver.listen(port)

    return Opening(_owning(Driver(socket_path), begin))


Owned = TypeVar("Owned", "Stream", Listener)


async def _owning(driver: Driver, begin: Callable[[Driver], Awaitable[Owned]]) -> Owned:
    """What ``begin`` opens, which closes the driver with itself."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(driver)
        opened = await begin(driver)
        opened._on_close = driver.aclose
        stack.pop_all()
        return opened
