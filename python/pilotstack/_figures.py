"""Durations counted in plain integers: cheaper than those of the metrics library, which take a lock
each time, and there without importing it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

#: Upper bounds in seconds, those of existing dashboards.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)


class Durations:
    """How often something took how long.

    Args:
        bounds: upper bounds of the buckets, in seconds.
    """

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        #: By bucket; the last is beyond all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """How many took at most each bound, as metrics are written."""
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))
