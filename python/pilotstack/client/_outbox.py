"""Frames on their way to the daemon, sans-IO.

A frame of which a part has left is always finished: whoever gave it may stop waiting, but the next
frame begins where this one ends.
"""

from __future__ import annotations

#: Bytes of frames that leave in one write.
_BATCH = 16 << 10


class Outbox:
    """Frames in the order in which they leave."""

    def __init__(self) -> None:
        self._frames: dict[int, memoryview] = {}
        self._is_begun = False
        self._ticket = 0

    def put(self, frame: bytes) -> int:
        """Queues a frame; the ticket names it."""
        self._ticket += 1
        self._frames[self._ticket] = memoryview(frame)
        return self._ticket

    def is_out(self, ticket: int) -> bool:
        """Whether the whole frame has left."""
        return ticket not in self._frames

    def withdraw(self, ticket: int) -> bool:
        """Takes a frame back. ``False`` when a part of it has left already: the rest will."""
        if ticket not in self._frames:
            return False
        if self._is_begun and ticket == next(iter(self._frames)):
            return False
        del self._frames[ticket]
        return True

    def clear(self) -> None:
        """Forgets what has not left."""
        self._frames.clear()
        self._is_begun = False

    def __bool__(self) -> bool:
        """Whether anything has not left yet."""
        return bool(self._frames)

    def next(self) -> bytes | memoryview | None:
        """What leaves next: small frames together, since each write wakes the daemon."""
        frames = self._frames
        first = next(iter(frames.values()), None)
        if first is None or len(frames) == 1 or len(first) >= _BATCH:
            return first
        batch, size = [], 0
        for waiting in frames.values():
            size += len(waiting)
            if size > _BATCH:
                break
            batch.append(waiting)
        return b"".join(batch)

    def sent(self, count: int) -> None:
        """Says how many bytes of :meth:`next` left."""
        frames = self._frames
        while count:
            ticket, rest = next(iter(frames.items()))
            if count < len(rest):
                frames[ticket] = rest[count:]
                self._is_begun = True
                return
            del frames[ticket]
            self._is_begun = False
            count -= len(rest)
