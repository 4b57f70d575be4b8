"""The driver's side of the daemon's socket as a sans-IO machine: octets and descriptors in, events
and octets out. Shells for anyio and for blocking code move the octets."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pilotstack.client import _frames as f
from pilotstack.errors import InternalError, PilotError, Unavailable, from_code
from pilotstack.types import Address, Datagram, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Greeted:
    """The daemon speaks our extension, or not."""

    is_extended: bool


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
class Failed:
    """A stream broke."""

    connection_id: int
    reason: str


Event = Greeted | Answer | Accepted | Received | Failed


class Session:
    """One connection to a daemon."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._fds: deque[int] = deque()
        self._next_id = 1

    def hello(self) -> bytes:
        """The frame that begins a session."""
        return f.frame(f.HELLO, f.u16(f.VERSION))

    def new_id(self) -> int:
        """An id for the next request."""
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        return self._next_id

    def receive(self, octets: bytes, fds: Iterable[int]) -> Iterator[Event]:
        """Takes what was read; gives what it means.

        Raises:
            InternalError: it means nothing; the session cannot go on.
        """
        self._octets += octets
        self._fds.extend(fds)
        while len(self._octets) >= f.LENGTH_LEN:
            length = int.from_bytes(self._octets[: f.LENGTH_LEN])
            if length > f.MAX_FRAME:
                raise InternalError(f"the daemon sent a frame of {length} octets")
            end = f.LENGTH_LEN + length
            if len(self._octets) < end:
                return
            body = bytes(self._octets[f.LENGTH_LEN : end])
            del self._octets[:end]
            if body and (event := self._parse(body[0], body[1:])) is not None:
                yield event

    def close(self) -> None:
        """Closes descriptors that nobody took."""
        while self._fds:
            os.close(self._fds.popleft())

    def _fd(self) -> int:
        if not self._fds:
            raise InternalError(
                "the daemon handed over no descriptor", hint="raise the limit of open files"
            )
        return self._fds.popleft()

    def _parse(self, command: int, payload: bytes) -> Event | None:
        number = int.from_bytes(payload[:4])
        match command:
            case f.HELLO_OK:
                return Greeted(is_extended=True)
            case f.ERROR:
                # The only request without id that we make is Hello.
                return Greeted(is_extended=False)
            case f.REPLY:
                return Answer(number, payload[4:])
            case f.FAILURE:
                return Answer(number, b"", _failure(payload[4:]))
            case f.STREAM_OPENED:
                connection_id = int.from_bytes(payload[4:8])
                local = SocketAddress(Address.unpack(payload[8:14]), int.from_bytes(payload[14:16]))
                return Answer(number, Opened(self._fd(), connection_id, local))
            case f.LISTENING | f.DATAGRAMS_BOUND:
                return Answer(number, int.from_bytes(payload[4:6]))
            case f.STREAM_ACCEPTED:
                remote = SocketAddress(
                    Address.unpack(payload[6:12]), int.from_bytes(payload[12:14])
                )
                port, connection_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:6])
                return Accepted(port, self._fd(), connection_id, remote)
            case f.RECV_FROM:
                source = SocketAddress(Address.unpack(payload[:6]), int.from_bytes(payload[6:8]))
                return Received(int.from_bytes(payload[8:10]), Datagram(payload[10:], source))
            case f.STREAM_FAILED:
                return Failed(number, f.REASONS.get(payload[4] if len(payload) > 4 else 0, "reset"))
            case _:
                return None


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
