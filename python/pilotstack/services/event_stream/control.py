"""What our own nodes tell each other beside events.

It is asked for in the payload of a subscription, which existing brokers ignore, and comes as events
of reserved topics. A pure codec.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pilotstack.services.event_stream.codec import RESERVED, Event, encode

__all__ = ["Flush", "Flushed", "Hello", "Lost", "Welcome"]

#: Topic that publishers subscribe to, so that they get no events.
PUBLISHER: Final = f"{RESERVED}publisher"
WELCOME: Final = f"{RESERVED}welcome"
LOST: Final = f"{RESERVED}lost"
FLUSH: Final = f"{RESERVED}flush"
FLUSHED: Final = f"{RESERVED}flushed"
#: Largest payload, bytes.
MAX: Final = 1024


class Hello(msgspec.Struct, frozen=True):
    """A subscriber that knows these messages; the payload of its subscription."""

    pilotstack: int


class Welcome(msgspec.Struct, frozen=True):
    """The subscription stands: events from now on arrive, unless the subscriber is slower than the
    queue of the broker is long. Sizes are in bytes."""

    events: int
    bytes: int


class Lost(msgspec.Struct, frozen=True):
    """The subscriber was too slow: events before the next one were dropped.

    Args:
        lost: how many now.
        total: how many since the subscription.
    """

    lost: int
    total: int


class Flush(msgspec.Struct, frozen=True):
    """A publisher asks whether everything before this was taken."""

    number: int


class Flushed(msgspec.Struct, frozen=True):
    """Everything before was taken.

    Args:
        number: as asked.
        published: events of this connection that were taken.
        refused: those that were not, because their topic is reserved or denied.
    """

    number: int
    published: int
    refused: int


Control = Welcome | Lost | Flush | Flushed
VERSION: Final = 1
HELLO: Final = msgspec.json.encode(Hello(VERSION))
_TOPICS: Final[dict[type[Control], str]] = {
    Welcome: WELCOME,
    Lost: LOST,
    Flush: FLUSH,
    Flushed: FLUSHED,
}
_TYPES: Final = {topic: made for made, topic in _TOPICS.items()}


def wire_of(control: Control) -> bytes:
    """The bytes of the event that says it."""
    return encode(Event(_TOPICS[type(control)], msgspec.json.encode(control)))


def parse(topic: str, payload: bytes) -> Control | None:
    """What an event says; ``None`` if it is an ordinary one, or says nothing."""
    made = _TYPES.get(topic)
    if made is None or len(payload) > MAX:
        return None
    try:
        control: Control = msgspec.json.decode(payload, type=made)
    except (msgspec.DecodeError, RecursionError):
        return None
    return control


def is_hello(payload: bytes) -> bool:
    """Whether a subscriber knows these messages."""
    if not payload or len(payload) > MAX:
        return False
    try:
        return msgspec.json.decode(payload, type=Hello).pilotstack >= VERSION
    except (msgspec.DecodeError, RecursionError):
        return False
