"""The broker: who subscribes to what, and when a publisher waits. No IO and no clock of its own.

A publisher waits for subscribers that keep up, so that they lose nothing. One that lets others wait
for longer than :data:`PATIENCE` since it last kept up is waited for no more: it loses the oldest
events, and is told how many, until it has caught up with half of its queue. If nobody else would be
held up, the publisher waits for longer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.services.event_stream.codec import ALL
from pilotstack.services.event_stream.log import Cursor, Log

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Blocked", "Broker", "Limits", "Subscriber"]

#: Seconds that publishers wait for a subscriber while others could go on, and if none could.
PATIENCE: Final = 0.25
STALL: Final = 5.0
#: Bytes that a subscriber is given at once.
BATCH: Final = 1 << 18
_ALL: Final = ALL.encode()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what waits for subscribers. Sizes are in bytes."""

    #: Of one topic.
    events: int = 4096
    bytes: int = 32 << 20
    #: Of all topics together.
    total_bytes: int = 128 << 20


class Subscriber:
    """A connection that subscribes to a topic."""

    __slots__ = ("cursor", "log", "topic")

    def __init__(self, topic: bytes, log: Log, cursor: Cursor) -> None:
        self.topic = topic
        self.log = log
        self.cursor = cursor


class Blocked(msgspec.Struct, frozen=True):
    """A publisher has to wait.

    Args:
        seconds: at most; then :meth:`Broker.give_up` is called.
        cursors: for whom.
    """

    seconds: float
    cursors: tuple[Cursor, ...]


class Broker:
    """Topics and their subscribers.

    Args:
        limits: how much may wait.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._logs: dict[bytes, Log] = {}
        self.published = 0
        #: ``lost`` events, summed over subscribers, and how often one began to ``lag``.
        self.counts: Counter[str] = Counter()

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return sum(len(log.cursors) for log in self._logs.values())

    @property
    def held(self) -> int:
        """Bytes that wait."""
        return sum(log.held for log in self._logs.values())

    def subscribe(self, topic: bytes, number: int) -> Subscriber:
        """A new subscriber.

        Args:
            number: of its connection, whose own events it does not get.
        """
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(self.limits.events, self.limits.bytes)
        return Subscriber(topic, log, log.add(number))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Removes one."""
        subscriber.log.remove(subscriber.cursor)
        if not subscriber.log.cursors:
            self._logs.pop(subscriber.topic, None)

    def publish(self, topic: bytes, wire: bytes, source: int) -> Blocked | list[Cursor]:
        """Publishes an event, unless the publisher has to wait for subscribers.

        Args:
            wire: the event's bytes.
            source: number of its connection.

        Returns:
            Who is to be woken.
        """
        logs = self._matching(topic)
        for log in logs:
            if not log.has_room(len(wire)) and (waiting := log.oldest()):
                return self._blocked(waiting, logs)
        woken: list[Cursor] = []
        for log in logs:
            log.append(wire, source)
            if log.idle:
                woken += log.idle
                for cursor in log.idle:
                    cursor.is_idle = False
                log.idle = []
        self.published += 1
        self._bound_total(logs)
        return woken

    def _matching(self, topic: bytes) -> list[Log]:
        found = [log for log in (self._logs.get(topic), self._logs.get(_ALL)) if log is not None]
        # Who publishes to the topic of all reaches its subscribers once.
        return found[:1] if topic == _ALL else found

    def _blocked(self, waiting: list[Cursor], logs: list[Log]) -> Blocked:
        everybody = sum(len(log.cursors) for log in logs)
        if len(waiting) == everybody:
            return Blocked(STALL, tuple(waiting))
        seconds = PATIENCE - max(cursor.waited for cursor in waiting)
        return Blocked(max(0.0, seconds), tuple(waiting))

    def waited(self, blocked: Blocked, seconds: float) -> None:
        """Notes how long a publisher waited, and for whom it does so no more."""
        if blocked.seconds == STALL and seconds < STALL:
            return
        for cursor in blocked.cursors:
            cursor.waited += seconds
            if cursor.waited >= PATIENCE and not cursor.is_lagging:
                cursor.is_lagging = True
                self.counts["lagging"] += 1

    def _bound_total(self, logs: Iterable[Log]) -> None:
        """Drops the oldest events of the longest queue while all of them are too long."""
        if sum(log.held for log in logs) * len(self._logs) <= self.limits.total_bytes:
            return
        while self.held > self.limits.total_bytes:
            max(self._logs.values(), key=lambda log: log.held).drop_oldest()

    def read(self, subscriber: Subscriber) -> tuple[bytes, int]:
        """The next events of a subscriber, joined, and how many it lost before them. If there are
        none, it is idle until :meth:`publish` names it."""
        log, cursor = subscriber.log, subscriber.cursor
        data, lost = log.read(cursor, BATCH)
        self.counts["lost"] += lost
        if not data and not lost and not cursor.is_idle and cursor.position == log.end:
            cursor.is_idle = True
            log.idle.append(cursor)
        return data, lost
