"""Events as bytes: u16 length of the topic, the topic, u32 length of the payload, the payload.

The same in both directions. The first event on a connection subscribes to its topic, the later ones
are published (docs/reference/protocol/services). A pure codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALL", "Decoder", "Event", "EventError", "RawEvent", "encode"]

MAX_TOPIC: Final = 1024
MAX_PAYLOAD: Final = 1 << 24
#: The topic that stands for all of them.
ALL: Final = "*"
#: Topics that begin so are ours: nobody publishes to them.
RESERVED: Final = "\x00pilot."
_TOPIC_LEN: Final = 2
_PAYLOAD_LEN: Final = 4


class EventError(ValueError):
    """A peer sent what is no event."""


class Event(msgspec.Struct, frozen=True):
    """An event."""

    topic: str
    payload: bytes = b""

    @property
    def text(self) -> str:
        """The payload as text."""
        return self.payload.decode(errors="replace")


class RawEvent(msgspec.Struct, frozen=True):
    """An event as it came: brokers pass its bytes on.

    Args:
        topic: UTF-8.
        wire: the whole event.
    """

    topic: bytes
    wire: bytes

    @property
    def payload(self) -> bytes:
        """What it carries."""
        return self.wire[_TOPIC_LEN + len(self.topic) + _PAYLOAD_LEN :]


def encode(event: Event) -> bytes:
    """The bytes of an event.

    Raises:
        EventError: the topic or the payload is too long.
    """
    topic = event.topic.encode()
    check(len(topic), len(event.payload))
    return b"".join(
        (
            len(topic).to_bytes(_TOPIC_LEN),
            topic,
            len(event.payload).to_bytes(_PAYLOAD_LEN),
            event.payload,
        )
    )


def check(topic: int, payload: int) -> None:
    """Checks lengths.

    Raises:
        EventError: one is too long.
    """
    if topic > MAX_TOPIC:
        raise EventError(f"topic too long: {topic}")
    if payload > MAX_PAYLOAD:
        raise EventError(f"payload too large: {payload}")


class Decoder:
    """Takes bytes as they come, and gives whole events.

    Args:
        take: told how many more bytes of an incomplete event are held; it may raise. Negative when
            they are held no more.
    """

    def __init__(self, take: Callable[[int], None] | None = None) -> None:
        self._buffer = bytearray()
        self._take = take or _ignore
        self._held = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a further event came."""
        return not self._buffer

    def close(self) -> None:
        """Drops what is incomplete."""
        self._buffer.clear()
        self._hold()

    def feed(self, data: bytes) -> list[RawEvent]:
        """The events that are complete with these bytes.

        Raises:
            EventError: these are no events.
        """
        # Most reads are whole events: they are not copied twice.
        whole: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            whole = self._buffer
        events: list[RawEvent] = []
        position, end = 0, len(whole)
        while end - position >= _TOPIC_LEN:
            length = int.from_bytes(whole[position : position + _TOPIC_LEN])
            check(length, 0)
            begin = position + _TOPIC_LEN + length
            if end - begin < _PAYLOAD_LEN:
                break
            size = int.from_bytes(whole[begin : begin + _PAYLOAD_LEN])
            check(0, size)
            after = begin + _PAYLOAD_LEN + size
            if end < after:
                break
            topic = bytes(whole[position + _TOPIC_LEN : begin])
            events.append(RawEvent(topic, bytes(whole[position:after])))
            position = after
        if whole is self._buffer:
            del self._buffer[:position]
        else:
            self._buffer += whole[position:]
        self._hold()
        return events

    def _hold(self) -> None:
        held = len(self._buffer)
        if held != self._held:
            self._take(held - self._held)
            self._held = held


def text_of(topic: bytes) -> str:
    """A topic as text.

    Raises:
        EventError: it is not UTF-8.
    """
    try:
        return topic.decode()
    except UnicodeDecodeError as error:
        raise EventError("the topic is not UTF-8") from error


def _ignore(count: int) -> None:
    del count
