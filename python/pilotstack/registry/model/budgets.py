"""Token buckets. No clocks here; ``now`` is any clock that only goes forward, in seconds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Sources that are remembered; the least recently used are dropped.
MAX_SOURCES: Final = 1 << 16
#: Log lines of one kind that remote peers can cause: burst, and per second.
LOG_BURST: Final = 20.0
LOG_RATE: Final = 1.0


class Bucket:
    """A token bucket.

    Args:
        rate: tokens per second.
        burst: tokens in a full bucket, and at the start.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Takes a token, if there is one."""
        self._fill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def has(self, now: float) -> bool:
        """Whether there is a token."""
        self._fill(now)
        return self._level >= 1.0

    def is_full(self, now: float) -> bool:
        """Whether it is full."""
        self._fill(now)
        return self._level >= self._burst


class Buckets:
    """A bucket per source, for a bounded number of sources."""

    def __init__(self, rate: float, burst: float, *, limit: int = MAX_SOURCES) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: str, now: float) -> bool:
        """Takes a token from a source's bucket, if there is one."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = Bucket(self._rate, self._burst, now)
        else:
            self._buckets.move_to_end(source)
        return bucket.take(now)

    def has(self, source: str, now: float) -> bool:
        """Whether a source has a token left."""
        bucket = self._buckets.get(source)
        return bucket is None or bucket.has(now)

    def sweep(self, now: float) -> None:
        """Drops the buckets that are full."""
        for source in [s for s, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[source]


class LogLimit:
    """Limits log lines of one kind that remote peers can cause."""

    def __init__(self, now: float) -> None:
        self._bucket = Bucket(LOG_RATE, LOG_BURST, now)
        self._unlogged = 0

    def take(self, now: float) -> int | None:
        """How many lines were suppressed before this one; ``None`` if this one is, too."""
        if not self._bucket.take(now):
            self._unlogged += 1
            return None
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged
