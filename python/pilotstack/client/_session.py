"""The driver's side of the daemon's socket, sans-IO: bytes in, events and bytes out.

It knows which requests wait for an answer, which frames are still to leave and why streams broke.
The shells for anyio and for threads move the bytes.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pilotstack.client._outbox import Outbox
from pilotstack.client.calls import Opened
from pilotstack.errors import InternalError, PilotError, Unavailable, from_code
from pilotstack.ipc import codes
from pilotstack.ipc.frames import frame
from pilotstack.types import Address, Datagram, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pilotstack.client.calls import Call


class Greeted(msgspec.Struct, frozen=True):
    """The daemon speaks our extension, or not, or refuses us."""

    is_extended: bool
    error: PilotError | None = None


class Answer(msgspec.Struct, frozen=True):
    """A request was answered, by JSON, a stream or the port that is bound; or it failed."""

    id: int
    value: bytes | Opened | int
    error: PilotError | None = None


class Accepted(msgspec.Struct, frozen=True):
    """A stream that somebody dialled to us."""

    port: int
    fd: int
    connection_id: int
    remote: SocketAddress


class Received(msgspec.Struct, frozen=True):
    """A datagram to one of our ports."""

    port: int
    datagram: Datagram


class Pending(msgspec.Struct, frozen=True):
    """A request that waits for its answer, and the ticket of its frame."""

    id: int
    ticket: int


Event = Greeted | Answer | Accepted | Received
T = TypeVar("T")

#: Broken streams whose reason is remembered.
_MAX_FAILURES = 65_536
#: Descriptors that may wait for the rest of their frames.
_MAX_FDS = 256


class DriverSession:
    """One connection to a daemon.

    An answer that nobody waits for any more is dropped, and what it brought is given back.
    """

    def __init__(self) -> None:
        self.out = Outbox()
        #: Why streams broke, the latest ``_MAX_FAILURES``.
        self.failures: dict[int, str] = {}
        #: Streams that were lost because this process may open no more files.
        self.lost = 0
        self._bytes = bytearray()
        self._fds: deque[int | None] = deque()
        self._next_id = 0
        # Command and port of each request, by id.
        self._waiting: dict[int, tuple[int, int]] = {}
        self._disconnected: dict[int, None] = {}

    def hello(self) -> int:
        """Begins the session; the ticket of the frame."""
        return self.out.put(frame(codes.HELLO, codes.VERSION.to_bytes(2)))

    # Requests

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._waiting)

    def _new_id(self) -> int:
        self._next_id = number = self._next_id % 0xFFFF_FFFF + 1
        return number

    def ask(self, call: Call[object]) -> Pending:
        """Queues a request.

        Raises:
            InvalidArgument: its frame would be too large.
        """
        number = self._new_id()
        data = frame(call.command, number.to_bytes(4), call.body)
        self._waiting[number] = (call.command, call.port)
        return Pending(number, self.out.put(data))

    def cancel(self, pending: Pending) -> None:
        """Nobody waits for this answer any more."""
        command, port = self._waiting.pop(pending.id, (0, 0))
        if command == 0 or self.out.withdraw(pending.ticket):
            return
        if command == codes.OPEN_STREAM:
            self.out.put(frame(codes.CANCEL_REQUEST, pending.id.to_bytes(4)))
        elif port:
            self._unbind(command, port)

    def _unbind(self, command: int, port: int) -> None:
        if command in {codes.LISTEN_STREAMS, codes.LISTENING}:
            body = self._new_id().to_bytes(4) + bytes((codes.UNBIND,)) + port.to_bytes(2)
            self.out.put(frame(codes.REQUEST, body))
        elif command in {codes.BIND_DATAGRAMS, codes.DATAGRAMS_BOUND}:
            self.unbind_datagrams(port)

    def unbind_datagrams(self, port: int) -> None:
        """Frees a port."""
        self.out.put(frame(codes.UNBIND_DATAGRAMS, port.to_bytes(2)))

    # Streams

    def refuse(self, accepted: Accepted) -> None:
        """Resets a stream that nobody takes."""
        os.close(accepted.fd)
        self.abort(accepted.connection_id)

    def abort(self, connection_id: int) -> None:
        """Resets a stream."""
        self.out.put(frame(codes.ABORT_STREAM, connection_id.to_bytes(4)))

    def disconnected(self, connection_id: int) -> None:
        """We had the daemon end a stream: to whoever reads it, that is its end."""
        _remember(self._disconnected, connection_id, None)

    def is_disconnected(self, connection_id: int) -> bool:
        """Whether we had the daemon end this stream."""
        return connection_id in self._disconnected

    # Arrivals

    def receive(self, data: bytes, fds: Iterable[int] = (), *, is_cut: bool = False) -> list[Event]:
        """Takes what was read; returns what it means.

        Args:
            is_cut: the system could not hand over a descriptor that belongs to a frame which
                begins in ``data``.

        Raises:
            InternalError: it is malformed; the session cannot go on.
        """
        self._fds.extend(fds)
        if is_cut:
            self._fds.append(None)
        if len(self._fds) > _MAX_FDS:
            raise InternalError("the daemon sent descriptors without frames")
        if not self._bytes and len(data) == codes.LENGTH_LEN + int.from_bytes(data[:4]) > 4:
            # Most reads bring one whole frame.
            event = self._parse(data[4], data[5:])
            return [] if event is None else [event]
        self._bytes += data
        return self._parse_all()

    def _parse_all(self) -> list[Event]:
        events: list[Event] = []
        buffer, position, size = self._bytes, 0, len(self._bytes)
        try:
            while size >= (begin := position + codes.LENGTH_LEN):
                length = int.from_bytes(buffer[position:begin])
                if length > codes.MAX_FRAME:
                    raise InternalError(f"the daemon sent a frame of {length} bytes")
                if size < begin + length:
                    break
                position = begin + length
                if length:
                    event = self._parse(buffer[begin], bytes(buffer[begin + 1 : position]))
                    if event is not None:
                        events.append(event)
        except InternalError:
            discard(events)
            raise
        del buffer[:position]
        return events

    def close(self) -> None:
        """Closes descriptors that nobody took."""
        while self._fds:
            if (fd := self._fds.popleft()) is not None:
                os.close(fd)

    def _fd(self, connection_id: int) -> int | None:
        """The descriptor of a stream; one that did not reach us is reset."""
        if not self._fds:
            raise InternalError("the daemon handed over no descriptor")
        fd = self._fds.popleft()
        if fd is None:
            self.lost += 1
            self.abort(connection_id)
        return fd

    def _answer(self, answer: Answer, command: int = 0) -> Answer | None:
        if self._waiting.pop(answer.id, None) is not None:
            return answer
        self.give_back(answer, command)
        return None

    def give_back(self, answer: Answer, command: int) -> None:
        """Frees what an answer brought that nobody takes.

        Args:
            command: of the request or of the answer.
        """
        if isinstance(answer.value, Opened):
            os.close(answer.value.fd)
            self.abort(answer.value.connection_id)
        elif isinstance(answer.value, int):
            self._unbind(command, answer.value)

    def _parse(self, command: int, payload: bytes) -> Event | None:
        match command:
            case codes.STREAM_OPENED:
                return self._opened(payload)
            case codes.STREAM_ACCEPTED:
                return self._accepted(payload)
            case codes.REPLY:
                return self._answer(Answer(int.from_bytes(payload[:4]), payload[5:]))
            case codes.RECV_FROM:
                source = _socket_address(payload)
                return Received(int.from_bytes(payload[8:10]), Datagram(payload[10:], source))
            case codes.LISTENING | codes.DATAGRAMS_BOUND:
                number, port = int.from_bytes(payload[:4]), int.from_bytes(payload[4:6])
                return self._answer(Answer(number, port), command)
            case codes.FAILURE:
                answer = Answer(int.from_bytes(payload[:4]), b"", _failure(payload[4:]))
                # No request has this id: the daemon refuses the session.
                return Greeted(False, answer.error) if answer.id == 0 else self._answer(answer)
            case codes.STREAM_FAILED:
                code = payload[4] if len(payload) > 4 else 0
                reason = codes.REASONS.get(code, "reset")
                _remember(self.failures, int.from_bytes(payload[:4]), reason)
            case codes.HELLO_OK:
                return Greeted(is_extended=True)
            case codes.ERROR:
                # Hello is the only request without an id that we make.
                return _refusal(payload[2:].decode(errors="replace"))
        return None

    def _opened(self, payload: bytes) -> Answer | None:
        number, connection_id = int.from_bytes(payload[:4]), int.from_bytes(payload[4:8])
        fd = self._fd(connection_id)
        if fd is None:
            return self._answer(Answer(number, b"", too_many_files()))
        return self._answer(Answer(number, Opened(fd, connection_id, _socket_address(payload, 8))))

    def _accepted(self, payload: bytes) -> Accepted | None:
        port, connection_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:6])
        fd = self._fd(connection_id)
        if fd is None:
            return None
        return Accepted(port, fd, connection_id, _socket_address(payload, 6))


def _socket_address(payload: bytes, begin: int = 0) -> SocketAddress:
    end = begin + 6
    return SocketAddress(Address.unpack(payload[begin:end]), int.from_bytes(payload[end : end + 2]))


def discard(events: Iterable[Event]) -> None:
    """Closes the descriptors that came with events which nobody takes."""
    for event in events:
        if isinstance(event, Accepted):
            os.close(event.fd)
        elif isinstance(event, Answer) and isinstance(event.value, Opened):
            os.close(event.value.fd)


def _remember(table: dict[int, T], key: int, value: T) -> None:
    if len(table) >= _MAX_FAILURES:
        del table[next(iter(table))]
    table[key] = value


def too_many_files() -> PilotError:
    """The error for a descriptor that this process cannot take."""
    return Unavailable(
        "this process may open no more files",
        hint="close streams, or raise the limit of open files (ulimit -n)",
    )


def _refusal(text: str) -> Greeted:
    if "unknown command" in text:
        return Greeted(is_extended=False)
    return Greeted(False, Unavailable(text or "the daemon refuses the session"))


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


def _failure(payload: bytes) -> PilotError:
    try:
        failure = msgspec.json.decode(payload, type=_Failure)
    except (msgspec.DecodeError, RecursionError):
        return InternalError("the daemon sent a malformed failure")
    return from_code(failure.code, failure.message, failure.hint or None)


def unavailable() -> PilotError:
    """The error for a daemon that lacks our extension."""
    return Unavailable(
        "this daemon does not hand over streams", hint="update the daemon to pilotstack's"
    )
