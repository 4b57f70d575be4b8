"""The driver's side of the daemon's socket as a sans-IO machine: bytes and descriptors in, events
and bytes out. Shells for anyio and for blocking code move the bytes."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pilotstack.client import _frames as f
from pilotstack.client._outbox import Outbox
from pilotstack.errors import InternalError, PilotError, Unavailable, from_code
from pilotstack.types import Address, Datagram, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Greeted:
    """The daemon speaks our extension, or not, or refuses us."""

    is_extended: bool
    error: PilotError | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A request was answered, or failed."""

    id: int
    value: bytes | int | Opened
    error: PilotError | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream we dialled."""

    fd: int
    connection_id: int
    local: SocketAddress


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stream that somebody dialled to us."""

    port: int
    fd: int
    connection_id: int
    remote: SocketAddress


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram to one of our ports."""

    port: int
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for its answer, and the ticket of its frame."""

    id: int
    ticket: int


Event = Greeted | Answer | Accepted | Received
T = TypeVar("T")

#: Broken streams whose reason is remembered.
_MAX_FAILURES = 65_536
#: Descriptors that may wait for the rest of their frames.
_MAX_FDS = 256


class Session:
    """One connection to a daemon: which requests wait, what leaves next, which streams broke.

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
        self._next_id = 1
        self._waiting: dict[int, tuple[int, int]] = {}
        self._disconnected: dict[int, None] = {}

    def hello(self) -> int:
        """Begins the session; the ticket of the frame."""
        return self.out.put(f.frame(f.HELLO, f.u16(f.VERSION)))

    # Requests

    def ask(self, command: int, *parts: bytes, port: int = 0) -> Pending:
        """Queues a request.

        Args:
            port: what it binds, if known: it is freed when nobody waits for the answer.
        """
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        frame = f.frame(command, f.u32(self._next_id), *parts)
        self._waiting[self._next_id] = (command, port)
        return Pending(self._next_id, self.out.put(frame))

    def cancel(self, pending: Pending) -> None:
        """Nobody waits for this answer any more."""
        command, port = self._waiting.pop(pending.id, (0, 0))
        if command == 0 or self.out.withdraw(pending.ticket):
            return
        if command == f.OPEN_STREAM:
            self.out.put(f.frame(f.CANCEL_REQUEST, f.u32(pending.id)))
        elif port:
            self._unbind(command, port)

    def _unbind(self, command: int, port: int) -> None:
        if command in {f.LISTEN_STREAMS, f.LISTENING}:
            self._next_id = self._next_id % 0xFFFF_FFFF + 1
            body = f.u32(self._next_id) + bytes((f.UNBIND,)) + f.u16(port)
            self.out.put(f.frame(f.REQUEST, body))
        elif command in {f.BIND_DATAGRAMS, f.DATAGRAMS_BOUND}:
            self.out.put(f.frame(f.UNBIND_DATAGRAMS, f.u16(port)))

    # Streams

    def refuse(self, accepted: Accepted) -> None:
        """Resets a stream that nobody takes."""
        os.close(accepted.fd)
        self.abort(accepted.connection_id)

    def abort(self, connection_id: int) -> None:
        """Resets a stream."""
        self.out.put(f.frame(f.ABORT_STREAM, f.u32(connection_id)))

    def disconnected(self, connection_id: int) -> None:
        """We had the daemon end a stream: to whoever reads it, that is its end."""
        _remember(self._disconnected, connection_id, None)

    def is_disconnected(self, connection_id: int) -> bool:
        """Whether we had the daemon end this stream."""
        return connection_id in self._disconnected

    # Arrivals

    def receive(self, data: bytes, fds: Iterable[int], *, is_cut: bool = False) -> Iterator[Event]:
        """Takes what was read; gives what it means.

        Args:
            is_cut: the system could not hand over a descriptor that belongs to a frame which
                begins in ``data``.

        Raises:
            InternalError: it means nothing; the session cannot go on.
        """
        self._bytes += data
        self._fds.extend(fds)
        if is_cut:
            self._fds.append(None)
        if len(self._fds) > _MAX_FDS:
            raise InternalError("the daemon sent descriptors without frames")
        while len(self._bytes) >= f.LENGTH_LEN:
            length = int.from_bytes(self._bytes[: f.LENGTH_LEN])
            if length > f.MAX_FRAME:
                raise InternalError(f"the daemon sent a frame of {length} bytes")
            end = f.LENGTH_LEN + length
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[f.LENGTH_LEN : end])
            del self._bytes[:end]
            if body and (event := self._parse(body[0], body[1:])) is not None:
                yield event

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
        number = int.from_bytes(payload[:4])
        match command:
            case f.HELLO_OK:
                return Greeted(is_extended=True)
            case f.ERROR:
                # The only request without id that we make is Hello.
                return _refusal(payload[2:].decode(errors="replace"))
            case f.REPLY:
                return self._answer(Answer(number, payload[4:]))
            case f.FAILURE:
                answer = Answer(number, b"", _failure(payload[4:]))
                # No request has this id: the daemon refuses the session.
                return Greeted(False, answer.error) if number == 0 else self._answer(answer)
            case f.STREAM_OPENED:
                return self._opened(number, payload)
            case f.LISTENING | f.DATAGRAMS_BOUND:
                return self._answer(Answer(number, int.from_bytes(payload[4:6])), command)
            case f.STREAM_ACCEPTED:
                remote = SocketAddress(
                    Address.unpack(payload[6:12]), int.from_bytes(payload[12:14])
                )
                port, connection_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:6])
                fd = self._fd(connection_id)
                return None if fd is None else Accepted(port, fd, connection_id, remote)
            case f.RECV_FROM:
                source = SocketAddress(Address.unpack(payload[:6]), int.from_bytes(payload[6:8]))
                return Received(int.from_bytes(payload[8:10]), Datagram(payload[10:], source))
            case f.STREAM_FAILED:
                code = payload[4] if len(payload) > 4 else 0
                _remember(self.failures, number, f.REASONS.get(code, "reset"))
        return None

    def _opened(self, number: int, payload: bytes) -> Answer | None:
        connection_id = int.from_bytes(payload[4:8])
        local = SocketAddress(Address.unpack(payload[8:14]), int.from_bytes(payload[14:16]))
        fd = self._fd(connection_id)
        if fd is None:
            return self._answer(Answer(number, b"", too_many_files()))
        return self._answer(Answer(number, Opened(fd, connection_id, local)))


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


def _failure(payload: bytes) -> PilotError:
    try:
        failure = msgspec.json.decode(payload)
        return from_code(failure["code"], failure["message"], failure.get("hint") or None)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return InternalError("the daemon sent a failure that makes no sense")


def reply_json(body: bytes) -> dict[str, object]:
    """The JSON object of a reply.

    Raises:
        InternalError: there is none.
    """
    try:
        value = msgspec.json.decode(body[1:])
    except msgspec.DecodeError as error:
        raise InternalError("the daemon sent a reply that makes no sense") from error
    if not isinstance(value, dict):
        raise InternalError("the daemon sent a reply that makes no sense")
    return value


def unavailable() -> PilotError:
    """The error for a daemon that lacks our extension."""
    return Unavailable(
        "this daemon does not hand over streams", hint="update the daemon to pilotstack's"
    )
