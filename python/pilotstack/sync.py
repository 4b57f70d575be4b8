"""The SDK for code without an event loop: the same calls, blocking.

::

    with pilotstack.sync.Driver() as driver:
        with driver.dial("agent-b:80") as stream:
            stream.sendall(b"hello")
            print(stream.recv(100))

A stream *is* a connected :class:`socket.socket`. Listeners and datagram sockets have a session of
their own, so that waiting on one holds up no other. A driver made before a fork is the parent's
afterwards: in the child it raises :exc:`pilotstack.errors.ForkedDriver`.
"""

from __future__ import annotations

import functools
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar, cast

import msgspec

from pilotstack.client import calls
from pilotstack.client._serving import is_remote, report, report_hook, report_remote
from pilotstack.client._session import Accepted, Received
from pilotstack.client._socket import StreamSocket
from pilotstack.client._threads import Plan, ThreadLink
from pilotstack.client._wire import DIAL, GRACE, PATIENCE, closed, place_of, remove_stale
from pilotstack.errors import NotRunning, PilotError
from pilotstack.ipc import frames
from pilotstack.ipc.layout import U32
from pilotstack.ipc.requests import Disconnect, GetInfo, ResolveHostname
from pilotstack.types import Address, Datagram, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Unpack

    from pilotstack.client._threads import Hook
    from pilotstack.client._wire import InProcess, Wire
    from pilotstack.client.calls import Call, Flow
    from pilotstack.daemon.embedded import Settings
    from pilotstack.ipc.layout import Request
    from pilotstack.types import Congestion

    #: Told of a handler's error, and of whose stream.
    OnError = Callable[[Exception, "Stream"], object]

__all__ = ["DatagramSocket", "Driver", "Listener", "Node", "Stream", "dial", "listen"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=msgspec.Struct)

#: Handlers of :meth:`Listener.serve` at once.
MAX_THREADS = 256


class _Closable(ABC):
    """What ends with its ``with`` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Ends it."""


class Stream(StreamSocket):
    """A stream to another agent, as a connected socket with two more addresses.

    Reading 0 bytes means the peer's FIN. A stream that broke raises
    :exc:`pilotstack.StreamBroken`, a :exc:`ConnectionResetError`, from then on. Code that takes
    its descriptor away (``detach``, ``os.read``, :mod:`ssl`) is told by the system: ECONNRESET once
    after the data, on Linux.
    """

    _origin: tuple[ThreadLink, Wire] | None = None


def _stream(
    link: ThreadLink, wire: Wire, fd: int, number: int, local: SocketAddress, remote: SocketAddress
) -> Stream:
    stream = Stream._make(fd, number, local, remote, link.judge(wire))
    stream._origin = (link, wire)
    return stream


def _abort(stream: Stream) -> None:
    if stream._origin is not None:
        link, wire = stream._origin
        link.abort(wire, stream)


def blocking(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[Driver, P], T]:
    """The method of a driver that waits for the answers of a flow."""

    @functools.wraps(flow)
    def method(driver: Driver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return driver._run(flow(*args, **kwargs))

    calls.shape(method, flow)
    return method


class Driver(_Closable):
    """A connection to the local daemon. See :class:`pilotstack.Driver` for every method's errors.

    Args:
        socket_path: the daemon's socket; see :func:`pilotstack.wellknown.default_socket`.
        timeout: seconds that the daemon has for an answer.
        reconnect: when the daemon ended, connect to the next one and listen, bind and forward there
            again. There is no thread of its own for that: the driver's next call does it, and
            whoever waits on a listener or datagram socket does it for that.
        on_disconnect: called without arguments when a session ended, if ``reconnect``, by the
            thread that notices. Driver, listeners and datagram sockets have one each.
        on_reconnect: called when it is as before.

    Raises:
        NotRunning: no daemon answers.
        TimedOut: it does not greet within 10 s.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | InProcess | None = None,
        *,
        timeout: float = PATIENCE,
        reconnect: bool = False,
        on_disconnect: Hook | None = None,
        on_reconnect: Hook | None = None,
    ) -> None:
        self._place = place_of(socket_path)
        self._timeout = frames.seconds(timeout)
        self._plan = Plan(reconnect, on_disconnect, on_reconnect)
        self._forwards: dict[bytes, bytes] = {}
        self._link = ThreadLink(self._place, self._timeout, self._plan)
        self._link.restore = self._restore

    def _new_link(self) -> ThreadLink:
        if self._link.is_closed:
            raise closed()
        return ThreadLink(self._place, self._timeout, self._plan)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place} {_state(self._link)}>"

    def close(self) -> None:
        """Closes the session; listeners, datagram sockets and streams live on."""
        self._link.close()

    # Control calls

    def ask(self, request: Request[A], *, timeout: float | None = None) -> A:
        """Asks the control plane something; see :meth:`pilotstack.Driver.ask`."""
        seconds = request.patience if timeout is None else timeout
        return self._link.request(calls.control(request), timeout=seconds)

    def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> calls.JsonObject:
        """Asks the control plane something by number; the JSON object of the reply."""
        return self._link.request(calls.raw(command, payload), timeout=timeout)

    def _run(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                request = flow.send(self.ask(request))
        except StopIteration as end:
            value: T = end.value
            return value

    info = blocking(calls.info)
    peers = blocking(calls.peers)
    connections = blocking(calls.connections)
    resolve = blocking(calls.resolve)
    set_hostname = blocking(calls.set_hostname)
    set_visibility = blocking(calls.set_visibility)
    set_tags = blocking(calls.set_tags)
    deregister = blocking(calls.deregister)
    register = blocking(calls.register)
    rotate_key = blocking(calls.rotate_key)
    enroll_recovery = blocking(calls.enroll_recovery)

    node_of = blocking(calls.node_of)
    handshake = blocking(calls.handshake)
    pending = blocking(calls.pending)
    approve = blocking(calls.approve)
    reject = blocking(calls.reject)
    trusted = blocking(calls.trusted)
    untrust = blocking(calls.untrust)
    wait_for_trust = blocking(calls.wait_for_trust)

    networks = blocking(calls.networks)
    create_network = blocking(calls.create_network)
    join_network = blocking(calls.join_network)
    leave_network = blocking(calls.leave_network)
    members = blocking(calls.members)
    invite = blocking(calls.invite)
    invites = blocking(calls.invites)
    accept_invite = blocking(calls.accept_invite)
    reject_invite = blocking(calls.reject_invite)
    delete_network = blocking(calls.delete_network)
    rename_network = blocking(calls.rename_network)
    kick = blocking(calls.kick)
    broadcast = blocking(calls.broadcast)

    # Streams

    def _address(self, host: Address | str) -> Address:
        return host if isinstance(host, Address) else self.resolve(host).address

    def dial(
        self,
        target: Target,
        *,
        timeout: float | None = None,
        no_delay: bool = False,
        congestion: Congestion | None = None,
    ) -> Stream:
        """Opens a stream; arguments as of the asynchronous driver's ``dial``."""
        seconds = DIAL if timeout is None else frames.seconds(timeout)
        options = frames.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        end = time.monotonic() + seconds
        if isinstance(host, str):
            look_up = calls.control(ResolveHostname(host))
            host = self._link.request(look_up, by=end + GRACE).address
        call = calls.open_stream(host, port, options, end - time.monotonic())
        wire, opened = self._link.request_of(call, timeout=seconds + GRACE, by=end + GRACE)
        remote = SocketAddress(host, port)
        return _stream(self._link, wire, opened.fd, opened.connection_id, opened.local, remote)

    def listen(
        self, port: int = 0, *, backlog: int = 0, path: str | os.PathLike[str] | None = None
    ) -> Listener:
        """Takes streams on a port of ours; arguments as of the asynchronous driver's ``listen``."""
        place = frames.path(path) if path is not None else b""
        call = calls.listen_streams(port, backlog, place)
        return Listener(self._new_link(), call, place, self.info().address)

    def datagram(self, port: int = 0) -> DatagramSocket:
        """Sends and takes datagrams on a port of ours; 0 means any."""
        call = calls.bind_datagrams(port)
        return DatagramSocket(self._new_link(), call, self._address)

    def forward(self, path: str | os.PathLike[str], target: Target) -> None:
        """Makes a Unix socket whose connections are dialled on to ``target``, until this driver is
        closed."""
        host, port = parse_target(target)
        place = frames.path(path)
        endpoint = frames.endpoint(self._address(host), port)
        self._link.request(calls.forward_path(endpoint, place))
        self._forwards[place] = endpoint

    def _restore(self, deadline: float) -> None:
        for place, endpoint in self._forwards.items():
            remove_stale(place)
            self._link.ask(self._link.wire, calls.forward_path(endpoint, place), deadline)

    def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once."""
        _abort(stream)

    def disconnect(self, connection_id: int) -> None:
        """Ends any connection of the daemon, also one of another program.

        Raises:
            NotFound: there is none with this number.
        """
        U32.pack(connection_id, "connection")
        self._link.wire.session.disconnected(connection_id)
        self.ask(Disconnect(connection_id))


class Node(Driver):
    """This process as a node of the overlay, without an event loop; see :class:`pilotstack.Node`.

    It is registered when this returns, and deregisters when it is closed. Listeners and streams of
    it end with it.

    Args:
        timeout: seconds for an answer.
        settings: see :class:`pilotstack.node.Settings`.

    Raises:
        ConnectionFailed: the registry does not answer.
        InvalidArgument: a setting makes no sense.
        AlreadyExists: another process has the identity.
    """

    def __init__(self, *, timeout: float = PATIENCE, **settings: Unpack[Settings]) -> None:
        from pilotstack.daemon.embedded import Engine, config_of

        self._engine = Engine(config_of(settings))
        try:
            #: Address, name, endpoint and other members, as of the start.
            self.ready = self._engine.start()
            super().__init__(self._engine.place, timeout=timeout)
        except BaseException:
            self._engine.stop()
            raise

    def close(self) -> None:
        """Ends the node, which takes a second at most."""
        super().close()
        self._engine.stop()


def _state(link: ThreadLink) -> str:
    if link.wire.is_forked:
        return "another process's"
    return "closed" if link.is_closed else "not connected" if link.wire.is_closed else "connected"


class _Bound(_Closable):
    """What has a port and a session of its own."""

    def __init__(self, link: ThreadLink, call: Call[int]) -> None:
        self._link = link
        try:
            #: The port that is bound.
            self.port = link.request(call)
        except BaseException:
            link.close()
            raise
        link.restore = self._restore

    @abstractmethod
    def _binding(self) -> Call[int]:
        """Binds the port again."""

    def _restore(self, deadline: float) -> None:
        self._link.ask(self._link.wire, self._binding(), deadline)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port {self.port} {_state(self._link)}>"

    def close(self) -> None:
        """Frees the port; accepted streams live on. A thread that waits is told."""
        self._link.close()


class Listener(_Bound):
    """Streams that others dial to one of our ports; iterate, :meth:`accept` or :meth:`serve`."""

    def __init__(self, link: ThreadLink, call: Call[int], path: bytes, address: Address) -> None:
        super().__init__(link, call)
        self._path = path
        self._address = address

    def _binding(self) -> Call[int]:
        return calls.listen_streams(self.port, 0, self._path)

    def _restore(self, deadline: float) -> None:
        super()._restore(deadline)
        info = self._link.ask(self._link.wire, calls.control(GetInfo()), deadline)
        self._address = info.address

    def accept(self, timeout: float | None = None) -> Stream:
        """The next stream.

        Raises:
            TimedOut: none came in ``timeout`` seconds.
            NotRunning: the daemon went away, or the listener was closed.
        """
        link = self._link
        event = link.next(lambda event: isinstance(event, Accepted), timeout)
        accepted = cast("Accepted", event)
        local = SocketAddress(self._address, self.port)
        number = accepted.connection_id
        return _stream(link, link.wire, accepted.fd, number, local, accepted.remote)

    def __iter__(self) -> Iterator[Stream]:
        """Streams until the listener is closed."""
        while True:
            try:
                yield self.accept()
            except NotRunning:
                if self._link.is_closed:
                    return
                raise

    def serve(
        self,
        handler: Callable[[Stream], object],
        *,
        on_error: OnError | None = None,
        max_threads: int = MAX_THREADS,
    ) -> None:
        """Runs ``handler`` for each stream in a thread of its own, until closed.

        The error of one handler ends neither the server nor other handlers. If its stream is still
        open, it is reset. What the peer caused, such as :exc:`pilotstack.StreamBroken`, is expected
        and logged for debugging only.

        Args:
            on_error: called with the error and the stream when a handler fails otherwise; unless
                given, the logger ``pilotstack`` gets the traceback.
            max_threads: handlers at once; further streams wait.

        Raises:
            NotRunning: the daemon went away.
        """
        slots = threading.BoundedSemaphore(max_threads)

        def run(stream: Stream) -> None:
            try:
                _handle(handler, stream, on_error or report)
            finally:
                slots.release()

        slots.acquire()
        for stream in self:
            try:
                threading.Thread(target=run, args=(stream,), daemon=True).start()
            except RuntimeError as error:
                # There are too many threads for now.
                _drop(stream)
                report(error, stream)
                slots.release()
            slots.acquire()


def _drop(stream: Stream) -> None:
    """Resets a stream: FIN would tell the peer that all is well."""
    if stream.fileno() >= 0:
        with suppress(PilotError):
            _abort(stream)
        stream.close()


def _handle(handler: Callable[[Stream], object], stream: Stream, on_error: OnError) -> None:
    try:
        handler(stream)
    except Exception as error:
        _drop(stream)
        if is_remote(error):
            report_remote(error, stream)
            return
        try:
            on_error(error, stream)
        except Exception as failure:
            report(error, stream)
            report_hook(failure)


class DatagramSocket(_Bound):
    """Datagrams on one port."""

    def __init__(
        self, link: ThreadLink, call: Call[int], resolve: Callable[[Address | str], Address]
    ) -> None:
        super().__init__(link, call)
        self._resolve = resolve

    def _binding(self) -> Call[int]:
        return calls.bind_datagrams(self.port)

    def send(self, item: Datagram) -> None:
        """Sends ``item.data`` to ``item.source``."""
        self.send_to(item.data, item.source)

    def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost."""
        contents = frames.datagram(data)
        host, port = parse_target(target)
        address = self._resolve(host)
        self._link.send(frames.send_from(self.port, address, port, contents))

    def receive(self, timeout: float | None = None) -> Datagram:
        """The next datagram.

        Raises:
            TimedOut: none came in ``timeout`` seconds.
            NotRunning: the daemon went away, or the socket was closed.
        """
        event = self._link.next(lambda event: isinstance(event, Received), timeout)
        return cast("Received", event).datagram


def dial(
    target: Target,
    *,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    no_delay: bool = False,
    congestion: Congestion | None = None,
) -> Stream:
    """Opens a stream in one line; its driver is closed with it."""
    driver = Driver(socket_path)
    try:
        stream = driver.dial(target, timeout=timeout, no_delay=no_delay, congestion=congestion)
    except BaseException:
        driver.close()
        raise
    stream._owner = driver.close
    return stream


def listen(port: int = 0, *, socket_path: str | os.PathLike[str] | None = None) -> Listener:
    """Listens in one line."""
    with Driver(socket_path) as driver:
        return driver.listen(port)
