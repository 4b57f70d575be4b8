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

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pilotstack import wellknown
from pilotstack.client import _frames as f
from pilotstack.client._link import Link, Plan
from pilotstack.client._serving import is_remote, report, report_hook, report_remote
from pilotstack.client._session import Accepted, Opened, Received, reply_json
from pilotstack.client._socket import StreamSocket
from pilotstack.client._wire import DIAL, GRACE, PATIENCE, closed, remove_stale
from pilotstack.client.control import BlockingControlCalls, info_of
from pilotstack.client.networks import BlockingNetworkCalls
from pilotstack.client.trust import BlockingTrustMethods
from pilotstack.errors import NotRunning, PilotError
from pilotstack.types import Address, Datagram, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pilotstack.client._wire import Wire
    from pilotstack.types import Congestion

__all__ = ["DatagramSocket", "Driver", "Listener", "Stream", "dial", "listen"]

#: Handlers of :meth:`Listener.serve` at once.
MAX_THREADS = 256


class _Closing:
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

    def close(self) -> None:
        """Ends it."""
        raise NotImplementedError


class Stream(StreamSocket):
    """A stream to another agent, as a connected socket with two more addresses.

    Reading 0 bytes means the peer's FIN. A stream that broke raises
    :exc:`pilotstack.StreamBroken`, a :exc:`ConnectionResetError`, from then on. Code that takes
    its descriptor away (``detach``, ``os.read``, :mod:`ssl`) is told by the system: ECONNRESET once
    after the data, on Linux.
    """

    _origin: tuple[Link, Wire] | None = None
    _owner: Driver | None = None

    def _released(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.close()

    def close(self) -> None:
        """Closes both directions; what was sent still arrives."""
        super().close()
        # Files made of the socket keep it open.
        if self.fileno() < 0:
            self._released()

    def detach(self) -> int:
        """The descriptor, which is the caller's to close."""
        number = super().detach()
        self._released()
        return number


def _stream(
    link: Link, wire: Wire, fd: int, number: int, local: SocketAddress, remote: SocketAddress
) -> Stream:
    stream = Stream._make(fd, number, local, remote, link.judge(wire))
    stream._origin = (link, wire)
    return stream


def _abort(stream: Stream) -> None:
    if stream._origin is not None:
        link, wire = stream._origin
        link.abort(wire, stream)


class Driver(_Closing, BlockingControlCalls, BlockingTrustMethods, BlockingNetworkCalls):
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
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout: float = PATIENCE,
        reconnect: bool = False,
        on_disconnect: Callable[[], Any] | None = None,
        on_reconnect: Callable[[], Any] | None = None,
    ) -> None:
        self._path = Path(socket_path) if socket_path else wellknown.default_socket()
        self._timeout = f.seconds(timeout)
        self._plan = Plan(reconnect, on_disconnect, on_reconnect)
        self._forwards: dict[bytes, bytes] = {}
        self._link = Link(self._path, self._timeout, self._plan)
        self._link.restore = self._restore

    def _new_link(self) -> Link:
        if self._link.is_closed:
            raise closed()
        return Link(self._path, self._timeout, self._plan)

    def __repr__(self) -> str:
        return f"<Driver {self._path} {_state(self._link)}>"

    def close(self) -> None:
        """Closes the session; listeners, datagram sockets and streams live on."""
        self._link.close()

    def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Asks the control plane something; the JSON object of the reply."""
        verb = f.u8(command, "command")
        _, answer = self._link.request(f.REQUEST, verb, payload, timeout=timeout)
        return reply_json(cast("bytes", answer.value))

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
        seconds = DIAL if timeout is None else f.seconds(timeout)
        options = f.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        end = time.monotonic() + seconds
        if not isinstance(host, Address):
            _, found = self._link.request(
                *(f.REQUEST, bytes((f.RESOLVE_HOSTNAME,)), f.text(host, "hostname", f.MAX_NAME)),
                by=end + GRACE,
            )
            host = Address.parse(str(reply_json(cast("bytes", found.value))["address"]))
        left = max(1, int((end - time.monotonic()) * 1000))
        wire, answer = self._link.request(
            *(f.OPEN_STREAM, f.endpoint(host, port), bytes((options,)), f.u32(left)),
            timeout=seconds + GRACE,
            by=end + GRACE,
        )
        opened = cast("Opened", answer.value)
        remote = SocketAddress(host, port)
        return _stream(self._link, wire, opened.fd, opened.connection_id, opened.local, remote)

    def listen(
        self, port: int = 0, *, backlog: int = 0, path: str | os.PathLike[str] | None = None
    ) -> Listener:
        """Takes streams on a port of ours; arguments as of the asynchronous driver's ``listen``."""
        parts = (f.u16(f.port(port)), f.u16(f.port(backlog)))
        place = f.path(path) if path is not None else b""
        address = self.info().address
        return Listener(self._new_link(), (*parts, place), port, address)

    def datagram(self, port: int = 0) -> DatagramSocket:
        """Sends and takes datagrams on a port of ours; 0 means any."""
        f.port(port)
        return DatagramSocket(self._new_link(), port, self)

    def forward(self, path: str | os.PathLike[str], target: Target) -> None:
        """Makes a Unix socket whose connections are dialled on to ``target``, until this driver is
        closed."""
        host, port = parse_target(target)
        place = f.path(path)
        endpoint = f.endpoint(self._address(host), port)
        self._link.request(f.FORWARD_PATH, endpoint, place)
        self._forwards[place] = endpoint

    def _restore(self, deadline: float) -> None:
        for place, endpoint in self._forwards.items():
            remove_stale(place)
            self._link.ask(self._link.wire, f.FORWARD_PATH, endpoint, place, deadline=deadline)

    def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once."""
        _abort(stream)

    def disconnect(self, connection_id: int) -> None:
        """Ends any connection of the daemon, also one of another program.

        Raises:
            NotFound: there is none with this number.
        """
        number = f.u32(connection_id, "connection")
        self._link.wire.session.disconnected(connection_id)
        self.call(f.DISCONNECT, number)


def _state(link: Link) -> str:
    if link.wire.is_forked:
        return "another process's"
    return "closed" if link.is_closed else "not connected" if link.wire.is_closed else "connected"


class _Bound(_Closing):
    """What has a port and a session of its own."""

    def __init__(self, link: Link, command: int, parts: tuple[bytes, ...], port: int) -> None:
        self._link = link
        self._command = command
        self._rest = parts[1:]
        try:
            _, answer = link.request(command, *parts, port=port)
        except BaseException:
            link.close()
            raise
        #: The port that is bound.
        self.port = cast("int", answer.value)
        link.restore = self._restore

    def _restore(self, deadline: float) -> None:
        parts = (f.u16(self.port), *self._rest)
        wire = self._link.wire
        self._link.ask(wire, self._command, *parts, port=self.port, deadline=deadline)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port {self.port} {_state(self._link)}>"

    def close(self) -> None:
        """Frees the port; accepted streams live on. A thread that waits is told."""
        self._link.close()


class Listener(_Bound):
    """Streams that others dial to one of our ports; iterate, :meth:`accept` or :meth:`serve`."""

    def __init__(self, link: Link, parts: tuple[bytes, ...], port: int, address: Address) -> None:
        super().__init__(link, f.LISTEN_STREAMS, parts, port)
        self._address = address

    def _restore(self, deadline: float) -> None:
        super()._restore(deadline)
        _, answer = self._link.ask(self._link.wire, f.REQUEST, bytes((f.INFO,)), deadline=deadline)
        self._address = info_of(reply_json(cast("bytes", answer.value))).address

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
        handler: Callable[[Stream], Any],
        *,
        on_error: Callable[[Exception, Stream], Any] | None = None,
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


def _handle(
    handler: Callable[[Stream], Any], stream: Stream, on_error: Callable[[Exception, Stream], Any]
) -> None:
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

    def __init__(self, link: Link, port: int, driver: Driver) -> None:
        super().__init__(link, f.BIND_DATAGRAMS, (f.u16(port),), port)
        self._driver = driver

    def send(self, item: Datagram) -> None:
        """Sends ``item.data`` to ``item.source``."""
        self.send_to(item.data, item.source)

    def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost."""
        contents = f.payload(data, f.MAX_DATAGRAM)
        host, port = parse_target(target)
        endpoint = f.endpoint(self._driver._address(host), port)
        self._link.send(f.frame(f.SEND_FROM, f.u16(self.port), endpoint, contents))

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
    stream._owner = driver
    return stream


def listen(port: int = 0, *, socket_path: str | os.PathLike[str] | None = None) -> Listener:
    """Listens in one line."""
    with Driver(socket_path) as driver:
        return driver.listen(port)
