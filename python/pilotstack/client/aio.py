"""The driver SDK for anyio: asyncio, uvloop and Trio."""

from __future__ import annotations

import array
import os
import socket as sockets
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack import wellknown
from pilotstack.client import _frames as f
from pilotstack.client import framed
from pilotstack.client._session import (
    Accepted,
    Answer,
    Failed,
    Greeted,
    Opened,
    Received,
    Session,
    reply_json,
    unavailable,
)
from pilotstack.client._stream import Stream
from pilotstack.client._turns import SharedReader
from pilotstack.client.framed import FramedLink
from pilotstack.client.listeners import DatagramSocket, FramedListener, Listener, Target
from pilotstack.client.networks import NetworkCalls
from pilotstack.client.trust import TrustMethods
from pilotstack.errors import InternalError, InvalidArgument, NotRunning, PilotError
from pilotstack.types import (
    Address,
    ConnectionInfo,
    Info,
    PeerInfo,
    Resolved,
    SocketAddress,
    parse_target,
)

if TYPE_CHECKING:
    from types import TracebackType

    from pilotstack.types import Congestion


_READ = 1 << 16
_MAX_FDS = 64
_ANCILLARY = sockets.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
#: Datagrams kept for a socket that nobody reads; later ones are dropped, as a network would.
_MAX_DATAGRAMS = 1024
#: Broken streams whose reason is remembered.
_MAX_FAILURES = 65_536
_MAX_DATAGRAM = 65_435
_MAX_PORT = 0xFFFF
_NO_DAEMON_HINT = "start the daemon with: pilotctl daemon start"


def _octets_of(path: str | os.PathLike[str]) -> bytes:
    """The path as the daemon must see it: it works in another directory."""
    return os.fsencode(Path(path).absolute())


class _Waiter:
    """Somebody who waits for something that arrives on the daemon's socket."""

    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.event = anyio.Event()


class Driver(TrustMethods, NetworkCalls, SharedReader):
    """A connection to the local daemon; use it as an async context manager.

    There is no background task: whoever waits for the daemon reads for everybody.

    Args:
        socket_path: the daemon's socket; see :func:`pilotstack.wellknown.default_socket`.
        framed: use the dialect of existing daemons, in which stream data passes the control
            socket. It is used anyway when the daemon does not know ours; datagrams and paths need
            ours.

    Raises:
        NotRunning: on entry, when no daemon answers there.
    """

    def __init__(
        self, socket_path: str | os.PathLike[str] | None = None, *, framed: bool = False
    ) -> None:
        super().__init__()
        self._is_framed = framed
        self._control: FramedLink | None = None
        self._path = Path(socket_path) if socket_path else wellknown.default_socket()
        self._session = Session()
        self._socket: sockets.socket | None = None
        self._greeting: Greeted | None = None
        self._waiters: dict[int, _Waiter] = {}
        self._sending = anyio.Lock()
        self._listeners: dict[int, Listener] = {}
        self._datagrams: dict[int, DatagramSocket] = {}
        self._failures: dict[int, str] = {}
        self._own: Address | None = None

    async def __aenter__(self) -> Driver:
        if self._is_framed:
            self._control = FramedLink(self._path)
            return self
        socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            socket.setblocking(False)
            socket.connect(str(self._path))
        except OSError as error:
            socket.close()
            raise NotRunning(f"no daemon answers at {self._path}", hint=_NO_DAEMON_HINT) from error
        self._socket = socket
        try:
            await self._send(self._session.hello())
            while self._greeting is None:
                await self._wait(anyio.Event())
        except BaseException:
            self._shut()
            raise
        if not self._greeting.is_extended:
            self._shut()
            self._is_framed = True
            self._control = FramedLink(self._path)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the session: listeners and datagram sockets end, streams live on."""
        self._shut()
        if self._control is not None:
            self._control.close()
        await anyio.lowlevel.checkpoint()

    def _shut(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            with suppress(OSError):
                self._drain(socket)
            anyio.notify_closing(socket)
            socket.close()
        self._session.close()
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
        if self._socket is None:
            raise NotRunning("the connection to the daemon is closed", hint=_NO_DAEMON_HINT)
        return self._socket

    # Moving octets

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            view = memoryview(frame)
            while view:
                socket = self._open()
                try:
                    view = view[socket.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(socket)
                except OSError as error:
                    self._shut()
                    raise NotRunning("the daemon went away", hint=_NO_DAEMON_HINT) from error

    def _send_now(self, frame: bytes) -> None:
        """Sends what nobody can wait for; a full socket means that the daemon is going away."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(frame)

    def _pump(self) -> None:
        """Takes what has arrived, without waiting."""
        if self._socket is None:
            return
        try:
            is_open = self._drain(self._socket)
        except PilotError:
            self._shut()
            raise
        except OSError:
            is_open = False
        if not is_open:
            self._shut()

    def _drain(self, socket: sockets.socket) -> bool:
        while True:
            try:
                octets, ancillary, flags, _ = socket.recvmsg(
                    _READ, _ANCILLARY, getattr(sockets, "MSG_CMSG_CLOEXEC", 0)
                )
            except (BlockingIOError, InterruptedError):
                return True
            fds = array.array("i")
            for level, kind, data in ancillary:
                if level == sockets.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            if flags & sockets.MSG_CTRUNC:
                for fd in fds:
                    os.close(fd)
                raise InternalError(
                    "a stream was lost on its way from the daemon",
                    hint="raise the limit of open files (ulimit -n)",
                )
            if not octets:
                return False
            for event in self._session.receive(octets, fds):
                self._take(event)

    def _take(self, event: Greeted | Answer | Accepted | Received | Failed) -> None:
        match event:
            case Greeted():
                self._greeting = event
            case Answer():
                waiter = self._waiters.pop(event.id, None)
                if waiter is not None:
                    waiter.answer = event
                    waiter.event.set()
                elif isinstance(event.value, Opened):
                    os.close(event.value.fd)
            case Accepted():
                listener = self._listeners.get(event.port)
                if listener is None:
                    os.close(event.fd)
                else:
                    listener._put(event)
            case Received():
                if (datagrams := self._datagrams.get(event.port)) is not None:
                    datagrams._put(event.datagram)
            case Failed():
                if len(self._failures) >= _MAX_FAILURES:
                    self._failures.pop(next(iter(self._failures)))
                self._failures[event.connection_id] = event.reason

    def _failure(self, connection_id: int) -> str | None:
        """Why a stream broke, if it did."""
        if connection_id not in self._failures:
            with suppress(PilotError):
                self._pump_aside()
        return self._failures.get(connection_id)

    async def _request(self, request_id: int, frame: bytes) -> Answer:
        waiter = self._waiters[request_id] = _Waiter()
        try:
            await self._send(frame)
            while waiter.answer is None:
                self._open()
                if waiter.event.is_set():
                    waiter.event = anyio.Event()
                await self._wait(waiter.event)
        except BaseException:
            self._waiters.pop(request_id, None)
            if waiter.answer is not None and isinstance(waiter.answer.value, Opened):
                os.close(waiter.answer.value.fd)
            self._send_now(f.frame(f.CANCEL_REQUEST, f.u32(request_id)))
            raise
        if waiter.answer.error is not None:
            raise waiter.answer.error
        return waiter.answer

    async def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something; see ``docs/reference/ipc.md``.

        Returns:
            The JSON object of the reply.

        Raises:
            PilotError: the daemon's refusal.
        """
        if self._control is not None:
            return reply_json(b"\0" + await self._control.request(f.frame(command, payload)))
        request_id = self._session.new_id()
        frame = f.frame(f.REQUEST, f.u32(request_id), bytes((command,)), payload)
        answer = await self._request(request_id, frame)
        return reply_json(cast("bytes", answer.value))

    # Streams

    async def _address(self, host: Address | str) -> Address:
        return host if isinstance(host, Address) else (await self.resolve(host)).address

    async def _own_address(self) -> Address:
        if self._own is None:
            self._own = (await self.info()).address
        return self._own

    async def dial(
        self,
        target: Target,
        *,
        timeout: float | None = None,
        no_delay: bool = False,
        congestion: Congestion | None = None,
    ) -> Stream:
        """Opens a stream.

        Args:
            target: ``"agent-b:80"``, ``"0:0000.0000.002A:1000"``, or address and port.
            timeout: seconds; 25 unless given.
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
        """
        if timeout is not None and not 0 < timeout < 1 << 22:
            raise InvalidArgument("timeout must be a positive number of seconds")
        options = f.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        address = await self._address(host)
        if self._is_framed:
            if congestion is not None:
                raise InvalidArgument("a framed stream has the daemon's congestion controller")
            return await framed.dial(self._path, address, port, timeout)
        request_id = self._session.new_id()
        milliseconds = max(1, int(timeout * 1000)) if timeout is not None else 0
        frame = f.frame(
            f.OPEN_STREAM,
            f.u32(request_id),
            f.endpoint(address, port),
            bytes((options,)),
            f.u32(milliseconds),
        )
        answer = await self._request(request_id, frame)
        opened = cast("Opened", answer.value)
        remote = SocketAddress(address, port)
        return self._stream(opened.fd, opened.connection_id, opened.local, remote)

    def _stream(
        self, fd: int, connection_id: int, local: SocketAddress, remote: SocketAddress
    ) -> Stream:
        return Stream(sockets.socket(fileno=fd), connection_id, local, remote, self._failure)

    async def listen(
        self, port: int = 0, *, backlog: int = 0, path: str | os.PathLike[str] | None = None
    ) -> Listener:
        """Takes streams on a port of ours.

        Args:
            port: 1 to 65,535, or 0 for any that is free.
            backlog: ignored by current daemons.
            path: instead of handing streams over, the daemon connects to this Unix socket for each
                (``uvicorn --uds`` and the like). The returned listener then gives none itself.

        Raises:
            AlreadyExists: the port is taken.
        """
        if not 0 <= port <= _MAX_PORT:
            raise InvalidArgument(f"no such port: {port}")
        if self._is_framed and port and path is None:
            return await FramedListener.make(self, port)
        request_id = self._session.new_id()
        octets = _octets_of(path) if path is not None else b""
        frame = f.frame(
            f.LISTEN_STREAMS, f.u32(request_id), f.u16(port), f.u16(backlog & _MAX_PORT), octets
        )
        listener = Listener(self, await self._own_address())
        if port:
            # Streams may arrive in one read with the answer.
            if port in self._listeners:
                raise InvalidArgument(f"port {port} already has a listener")
            self._listeners[port] = listener
        try:
            answer = await self._request(request_id, frame)
        except BaseException:
            self._listeners.pop(port, None)
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
        address = await self._address(host)
        request_id = self._session.new_id()
        octets = _octets_of(path)
        endpoint = f.endpoint(address, port)
        await self._request(
            request_id, f.frame(f.FORWARD_PATH, f.u32(request_id), endpoint, octets)
        )

    async def datagram(self, port: int = 0) -> DatagramSocket:
        """Sends and takes datagrams on a port of ours; 0 means any.

        Raises:
            AlreadyExists: the port is taken.
        """
        if not 0 <= port <= _MAX_PORT:
            raise InvalidArgument(f"no such port: {port}")
        request_id = self._session.new_id()
        frame = f.frame(f.BIND_DATAGRAMS, f.u32(request_id), f.u16(port))
        answer = await self._request(request_id, frame)
        bound = cast("int", answer.value)
        datagrams = self._datagrams[bound] = DatagramSocket(self, bound)
        return datagrams

    # Control

    async def info(self) -> Info:
        """The daemon's state."""
        return Info.from_json(await self.call(f.INFO))

    async def peers(self) -> tuple[PeerInfo, ...]:
        """Nodes that the daemon has tunnels to."""
        return (await self.info()).peer_list

    async def connections(self) -> tuple[ConnectionInfo, ...]:
        """The daemon's connections."""
        return (await self.info()).conn_list

    async def resolve(self, name: str) -> Resolved:
        """What a hostname stands for.

        Raises:
            NotFound: nobody has it.
            ConnectionFailed: the registry cannot be asked.
        """
        row = await self.call(f.RESOLVE_HOSTNAME, name.encode())
        address = Address.parse(str(row["address"]))
        return Resolved(name, int(row["node_id"]), address, bool(row.get("public")))

    async def set_hostname(self, name: str) -> None:
        """Takes a name; an empty one gives it up.

        Raises:
            AlreadyExists: another node has it.
        """
        await self.call(f.SET_HOSTNAME, name.encode())

    async def set_visibility(self, *, public: bool) -> None:
        """Lets everybody reach this node, or only those it trusts."""
        await self.call(f.SET_VISIBILITY, bytes((public,)))

    async def deregister(self) -> None:
        """Takes this node off the network until it is registered again: see :meth:`register`."""
        await self.call(f.DEREGISTER)

    async def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once."""
        self._send_now(f.frame(f.ABORT_STREAM, f.u32(stream.connection_id)))

    async def disconnect(self, connection_id: int) -> None:
        """Closes any connection of the daemon."""
        if self._control is not None:
            await self._control.send(f.frame(f.CLOSE, f.u32(connection_id)))
            return
        request_id = self._session.new_id()
        body = bytes((f.CLOSE,)) + f.u32(connection_id)
        await self._request(request_id, f.frame(f.REQUEST, f.u32(request_id), body))


async def dial(
    target: Target,
    *,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    no_delay: bool = False,
    congestion: Congestion | None = None,
) -> Stream:
    """Opens a stream in one line; its driver is closed with it. See :meth:`Driver.dial`."""
    driver = Driver(socket_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(driver)
        stream = await driver.dial(
            target, timeout=timeout, no_delay=no_delay, congestion=congestion
        )
        stream._on_close = driver.aclose
        stack.pop_all()
        return stream


async def listen(port: int = 0, *, socket_path: str | os.PathLike[str] | None = None) -> Listener:
    """Listens in one line; the driver behind it is closed with it. See :meth:`Driver.listen`."""
    driver = Driver(socket_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(driver)
        listener = await driver.listen(port)
        listener._on_close = driver.aclose
        stack.pop_all()
        return listener
