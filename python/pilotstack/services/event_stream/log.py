"""The events of one topic that not every subscriber has yet. No IO and no clock.

There is one queue for a topic and a cursor for each subscriber: publishing costs the same however
many they are, and an event is held once. A subscriber whose cursor falls out of the queue has lost
events, and how many is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cursor", "Log"]

#: Entries that were read by all are removed from the list so many at once.
_COMPACT: Final = 1024


class Cursor:
    """Where a subscriber stands in a log.

    Args:
        number: of its connection; events of the same are left out.
        position: of the next event.
    """

    __slots__ = (
        *("has_published", "is_idle", "is_lagging", "lost", "number", "position", "waited"),
        "wake",
    )

    def __init__(self, number: int, position: int) -> None:
        self.number = number
        self.position = position
        #: Events that were dropped for it.
        self.lost = 0
        #: Publishers do not wait for it until it has caught up.
        self.is_lagging = False
        #: Seconds that publishers waited for it since it kept up.
        self.waited = 0.0
        #: Its own events may be among the others.
        self.has_published = False
        #: It has read everything, and waits.
        self.is_idle = False
        #: Called when there is something to read; set by the shell.
        self.wake: Callable[[], None] = _nobody


def _nobody() -> None:
    pass


class Log:
    """A bounded queue with many readers.

    Args:
        max_events: entries at most.
        max_bytes: bytes of them at most; one entry may be larger.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._entries: list[bytes] = []
        self._sources: list[int] = []
        #: Index of the first entry in the list, and its position.
        self._skip = 0
        self.head = 0
        self.held = 0
        self.cursors: set[Cursor] = set()
        #: Of them, those that have read everything.
        self.idle: list[Cursor] = []
        self._behind = 0
        self._joined: tuple[int, int, bytes] = (0, 0, b"")

    @property
    def end(self) -> int:
        """The position after the last entry."""
        return self.head + len(self._entries) - self._skip

    def add(self, number: int) -> Cursor:
        """A new reader, that reads what comes from now on."""
        cursor = Cursor(number, self.end)
        self.cursors.add(cursor)
        return cursor

    def remove(self, cursor: Cursor) -> None:
        """Removes a reader."""
        self.cursors.discard(cursor)
        if cursor.is_idle:
            self.idle.remove(cursor)
        self._behind -= cursor.position < self.end
        self._clear_read()

    def has_room(self, size: int) -> bool:
        """Whether an entry fits without dropping another."""
        count = self.end - self.head
        return count < self._max_events and (not count or self.held + size <= self._max_bytes)

    def oldest(self) -> list[Cursor]:
        """Readers that an entry would be dropped for, and that keep up."""
        head = self.head
        return [each for each in self.cursors if each.position <= head and not each.is_lagging]

    def append(self, entry: bytes, source: int) -> None:
        """Appends an entry; the oldest ones make room."""
        if not self.cursors:
            return
        while not self.has_room(len(entry)):
            self.drop_oldest()
        self._entries.append(entry)
        self._sources.append(source)
        self.held += len(entry)
        self._behind = len(self.cursors)

    def drop_oldest(self) -> None:
        """Drops the first entry, read or not."""
        self.held -= len(self._entries[self._skip])
        self._entries[self._skip] = b""
        self._skip += 1
        self.head += 1
        if self._skip >= _COMPACT:
            del self._entries[: self._skip]
            del self._sources[: self._skip]
            self._skip = 0

    def read(self, cursor: Cursor, most: int) -> tuple[bytes, int]:
        """The next entries for a reader, joined, and how many it lost before them.

        Args:
            most: bytes, unless the first entry alone is larger.
        """
        lost = max(0, self.head - cursor.position)
        begin, end = max(cursor.position, self.head), self.end
        cursor.lost += lost
        if begin == end:
            self._behind -= cursor.position < end
            cursor.position = end
            return b"", lost
        first, stop, data = self._joined
        # Subscribers that keep up read the same; a short piece is joined anew with what came since.
        is_same = first == begin and (stop == end or 2 * len(data) > most)
        if not is_same or not data or cursor.has_published:
            stop, data = self._join(cursor, begin, end, most)
        cursor.position = stop
        if stop == end:
            self._behind -= 1
            self._clear_read()
        if end - stop <= self._max_events // 2:
            cursor.is_lagging = False
            cursor.waited = 0.0
        return data, lost

    def _join(self, cursor: Cursor, begin: int, end: int, most: int) -> tuple[int, bytes]:
        first = self._skip + begin - self.head
        size = 0
        stop = begin
        while stop < end:
            size += len(self._entries[first + stop - begin])
            if size > most and stop > begin:
                break
            stop += 1
        last = first + stop - begin
        if cursor.has_published:
            own = cursor.number
            chosen = zip(self._entries[first:last], self._sources[first:last], strict=True)
            return stop, b"".join(entry for entry, source in chosen if source != own)
        data = b"".join(self._entries[first:last])
        self._joined = (begin, stop, data)
        return stop, data

    def _clear_read(self) -> None:
        """Drops entries that everybody has read."""
        if self._behind <= 0 and self.held:
            self.head = self.end
            self._entries.clear()
            self._sources.clear()
            self._skip = self.held = 0
            self._joined = (0, 0, b"")
