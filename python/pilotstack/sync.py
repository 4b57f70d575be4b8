"""The SDK for code without an event loop: the same calls, blocking.

::

    with pilotstack.sync.Driver() as driver:
        with driver.dial("agent-b:80") as stream:
            stream.sendall(b"hello")
            print(stream.recv(100))

A stream *is* a connected :class:`socket.socket`. Listeners and datagram sockets have a session of
their own, so that waiting on one holds up no other. One thread at a time may use an object.
"""

from __future__ import annotations

import array
import os
import select
import socket as sockets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pilotstack import wellknown
from pilotstack.client import _frames as f
from pilotstack.client import _trust
from pilotstack.client._session import (
    Accepted,
    Answer,
    Event,
    Failed,
    Greeted,
    Opened,
    Received,
    Session,
    reply_json,
    unavailable,
)
from pilotstack.client.networks import BlockingNetworkCalls
from pilotstack.errors import InternalError, NotRunning, TimedOut
from pilotstack.types import (
    Address,
    ConnectionInfo,
    Datagram,
    Info,
    PeerInfo,
    PendingHandshake,
    Resolved,
    SocketAddress,
    TrustedPeer,
    parse_host,
    parse_target,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from pilotstack.client.trust import Peer
    from pilotstack.types import Congestion

__all__ = ["DatagramSocket", "Driver", "Listener", "Stream", "dial", "listen"]

Target = str | SocketAddress | tuple[Address, int]

_READ = 1 << 16
_MAX_FDS = 64
_ANCILLARY = sockets.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
_NO_DAEMON_HINT = "start the daemon with: pilotctl daemon start"
#: Seconds that the daemon has for an answer beyond the dial's own time.
_PATIENCE = 30.0
_DIAL = 25.0


class Stream(sockets.socket):
    """A stream to another agent, as a connected socket with two more addresses."""

    connection_id: int
    local_address: SocketAddress
    remote_address: SocketAddress

    @classmethod
    def _make(
        cls, fd: int, connection_id: int, local: SocketAddress, remote: SocketAddress
    ) -> Stream:
        stream = cls(fileno=fd)
        stream.setblocking(True)
        stream.connection_id = connection_id
        stream.local_address = local
        stream.remote_address = remote
        return stream


class _Link:
    """A session over a blocking socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = Session()
        self._lock = threading.RLock()
        self._events: list[Event] = []
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise NotRunning(f"no daemon answers at {path}", hint=_NO_DAEMON_HINT) from error
        try:
            self._write(self._session.hello())
            greeting = self.next(lambda event: isinstance(event, Greeted), _PATIENCE)
            if not cast("Greeted", greeting).is_extended:
                raise unavailable()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()
        self._session.close()
        for event in self._events:
            if isinstance(event, Accepted):
                os.close(event.fd)
        self._events.clear()

    def _write(self, frame: bytes) -> None:
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise NotRunning("the daemon went away", hint=_NO_DAEMON_HINT) from error

    def _read(self, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            if not select.select([self._socket], [], [], left)[0]:
                raise TimedOut("no answer in time")
            octets, ancillary, flags, _ = self._socket.recvmsg(_READ, _ANCILLARY)
        except (OSError, ValueError) as error:
            if isinstance(error, TimedOut):
                raise
            raise NotRunning("the session is closed", hint=_NO_DAEMON_HINT) from error
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == sockets.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        if flags & sockets.MSG_CTRUNC:
            raise InternalError("a stream was lost", hint="raise the limit of open files")
        if not octets:
            raise NotRunning("the daemon went away", hint=_NO_DAEMON_HINT)
        self._events.extend(self._session.receive(octets, fds))

    def next(self, wanted: Any, timeout: float | None) -> Event:
        """The next event that ``wanted`` holds for; others wait for whoever wants them."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while True:
                for position, event in enumerate(self._events):
                    if wanted(event):
                        return self._events.pop(position)
                self._events = [event for event in self._events if not isinstance(event, Failed)]
                self._read(deadline)

    def request(self, command: int, *parts: bytes, timeout: float = _PATIENCE) -> Answer:
        """Sends a request and waits for its answer."""
        with self._lock:
            request_id = self._session.new_id()
            self._write(f.frame(command, f.u32(request_id), *parts))

            def is_answer(event: Event) -> bool:
                return isinstance(event, Answer) and event.id == request_id

            answer = cast("Answer", self.next(is_answer, timeout))
        if answer.error is not None:
            raise answer.error
        return answer

    def send(self, frame: bytes) -> None:
        """Sends a frame that nothing answers."""
        with self._lock:
            self._write(frame)


class Driver(BlockingNetworkCalls):
    """A connection to the local daemon. See :class:`pilotstack.Driver` for every method's errors.

    Raises:
        NotRunning: no daemon answers.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self._link = _Link(Path(socket_path) if socket_path else wellknown.default_socket())

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
        """Closes the session; streams live on."""
        self._link.close()

    def call(
        self, command: int, payload: bytes = b"", *, timeout: float = _PATIENCE
    ) -> dict[str, Any]:
        """Asks the control plane something; the JSON object of the reply."""
        answer = self._link.request(f.REQUEST, bytes((command,)), payload, timeout=timeout)
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
        options = f.dial_flags(no_delay, congestion)
        host, port = parse_target(target)
        address = self._address(host)
        seconds = timeout if timeout is not None else _DIAL
        answer = self._link.request(
            f.OPEN_STREAM,
            f.endpoint(address, port),
            bytes((options,)),
            f.u32(max(1, int(seconds * 1000))),
            timeout=seconds + _PATIENCE,
        )
        opened = cast("Opened", answer.value)
        remote = SocketAddress(address, port)
        return Stream._make(opened.fd, opened.connection_id, opened.local, remote)

    def listen(self, port: int = 0) -> Listener:
        """Takes streams on a port of ours; 0 means any."""
        return Listener(_Link(self._link.path), port, self.info().address)

    def datagram(self, port: int = 0) -> DatagramSocket:
        """Sends and takes datagrams on a port of ours; 0 means any."""
        return DatagramSocket(_Link(self._link.path), port, self)

    def info(self) -> Info:
        """The daemon's state."""
        return Info.from_json(self.call(f.INFO))

    def peers(self) -> tuple[PeerInfo, ...]:
        """Nodes that the daemon has tunnels to."""
        return self.info().peer_list

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The daemon's connections."""
        return self.info().conn_list

    def resolve(self, name: str) -> Resolved:
        """What a hostname stands for."""
        row = self.call(f.RESOLVE_HOSTNAME, name.encode())
        address = Address.parse(str(row["address"]))
        return Resolved(name, int(row["node_id"]), address, bool(row.get("public")))

    def set_hostname(self, name: str) -> None:
        """Takes a name; an empty one gives it up."""
        self.call(f.SET_HOSTNAME, name.encode())

    def set_visibility(self, *, public: bool) -> None:
        """Lets everybody reach this node, or only those it trusts."""
        self.call(f.SET_VISIBILITY, bytes((public,)))

    def deregister(self) -> None:
        """Takes this node off the network."""
        self.call(f.DEREGISTER)

    def node_of(self, peer: Peer) -> int:
        """The node id of a node id, address or hostname."""
        if isinstance(peer, int):
            return peer
        return self._address(peer if isinstance(peer, Address) else parse_host(peer)).node

    def handshake(self, peer: Peer, justification: str = "") -> None:
        """Asks a peer for trust; as of the asynchronous driver."""
        payload = _trust.of(_trust.REQUEST, self.node_of(peer), justification)
        self.call(f.HANDSHAKE, payload, timeout=_DIAL + _PATIENCE)

    def pending(self) -> tuple[PendingHandshake, ...]:
        """Requests that wait for an answer. Their texts come from strangers."""
        return _trust.pending(self.call(f.HANDSHAKE, _trust.PENDING))

    def approve(self, peer: Peer) -> None:
        """Grants a peer's request."""
        node = self.node_of(peer)
        _trust.found(self.call(f.HANDSHAKE, _trust.of(_trust.APPROVE, node)), node)

    def reject(self, peer: Peer, reason: str = "") -> None:
        """Refuses a peer's request, and tells it the reason."""
        node = self.node_of(peer)
        _trust.found(self.call(f.HANDSHAKE, _trust.of(_trust.REJECT, node, reason)), node)

    def trusted(self) -> tuple[TrustedPeer, ...]:
        """Whom this node trusts, and who trusts it; the newest first."""
        return _trust.trusted(self.call(f.HANDSHAKE, _trust.TRUSTED))

    def untrust(self, peer: Peer) -> None:
        """Ends the trust of both sides; as of the asynchronous driver."""
        self.call(f.HANDSHAKE, _trust.of(_trust.REVOKE, self.node_of(peer)))

    def wait_for_trust(self, peer: Peer, timeout: float = _trust.MAX_WAIT) -> bool:
        """Whether there is trust within ``timeout`` seconds, at most 30."""
        payload = _trust.wait(self.node_of(peer), timeout)
        reply = self.call(f.HANDSHAKE, payload, timeout=_trust.MAX_WAIT + _PATIENCE)
        return bool(reply.get("trusted"))

    def abort(self, stream: Stream) -> None:
        """Resets a stream: what was not sent is dropped, and the peer's stream breaks at once."""
        self._link.send(f.frame(f.ABORT_STREAM, f.u32(stream.connection_id)))

    def disconnect(self, connection_id: int) -> None:
        """Closes any connection of the daemon."""
        self._link.request(f.REQUEST, bytes((f.CLOSE,)), f.u32(connection_id))


class Listener:
    """Streams that others dial to one of our ports; iterate or :meth:`accept`."""

    def __init__(self, link: _Link, port: int, address: Address) -> None:
        self._link = link
        self._address = address
        try:
            answer = link.request(f.LISTEN_STREAMS, f.u16(port), f.u16(0))
        except BaseException:
            link.close()
            raise
        #: The port that is listened on.
        self.port = cast("int", answer.value)

    def accept(self, timeout: float | None = None) -> Stream:
        """The next stream.

        Raises:
            TimedOut: none came in ``timeout`` seconds.
        """
        event = self._link.next(lambda event: isinstance(event, Accepted), timeout)
        accepted = cast("Accepted", event)
        local = SocketAddress(self._address, self.port)
        return Stream._make(accepted.fd, accepted.connection_id, local, accepted.remote)

    def __iter__(self) -> Iterator[Stream]:
        with suppress(NotRunning):
            while True:
                yield self.accept()

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
        """Frees the port; accepted streams live on."""
        self._link.close()


class DatagramSocket:
    """Datagrams on one port."""

    def __init__(self, link: _Link, port: int, driver: Driver) -> None:
        self._link = link
        self._driver = driver
        try:
            answer = link.request(f.BIND_DATAGRAMS, f.u16(port))
        except BaseException:
            link.close()
            raise
        self.port = cast("int", answer.value)

    def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost."""
        host, port = parse_target(target)
        address = self._driver._address(host)
        self._link.send(f.frame(f.SEND_FROM, f.u16(self.port), f.endpoint(address, port), data))

    def receive(self, timeout: float | None = None) -> Datagram:
        """The next datagram.

        Raises:
            TimedOut: none came in ``timeout`` seconds.
        """
        event = self._link.next(lambda event: isinstance(event, Received), timeout)
        return cast("Received", event).datagram

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
        """Frees the port."""
        self._link.close()


def dial(
    target: Target,
    *,
    socket_path: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
) -> Stream:
    """Opens a stream in one line."""
    with Driver(socket_path) as driver:
        return driver.dial(target, timeout=timeout)


def listen(port: int = 0, *, socket_path: str | os.PathLike[str] | None = None) -> Listener:
    """Listens in one line."""
    with Driver(socket_path) as driver:
        return driver.listen(port)
