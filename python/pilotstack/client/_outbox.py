"""Frames on their way to the daemon, sans-IO.

A frame of which a part has left is always finished: whoever gave it may stop waiting, but the next
frame begins where this one ends.
"""

from __future__ import annotations


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

    def next(self) -> memoryview | None:
        """What leaves next."""
        return next(iter(self._frames.values()), None)

    def sent(self, count: int) -> None:
        """Says how many bytes of :meth:`next` left."""
        ticket, rest = next(iter(self._frames.items()))
        if count < len(rest):
            self._frames[ticket] = rest[count:]
            self._is_begun = self._is_begun or count > 0
        else:
            del self._frames[ticket]
            self._is_begun = False
