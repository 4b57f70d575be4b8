"""What is remembered for a while, within bounds. No clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

__all__ = ["Buckets", "Remembered"]


class Remembered(Generic[K, V]):
    """Values by key, each for a time. The oldest ones make room for others.

    Args:
        limit: values at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, now: float) -> tuple[V] | None:
        """The value in a tuple of one, since it may be ``None`` itself."""
        found = self._values.get(key)
        return (found[1],) if found is not None and now < found[0] else None

    def put(self, key: K, value: V, until: float) -> None:
        """Remembers a value."""
        self._values.pop(key, None)
        self._values[key] = until, value
        if len(self._values) > self._limit:
            self._values.popitem(last=False)


class Buckets:
    """A token bucket for each node.

    Args:
        rate: tokens per second.
        burst: tokens that a node may save.
        limit: nodes that are remembered; the ones that came longest ago are forgotten, and have a
            full bucket when they come again.
    """

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._tokens: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def take(self, node: int, now: float) -> bool:
        """Takes a token of a node. Returns whether there was one."""
        tokens, since = self._tokens.pop(node, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
        is_there = tokens >= 1
        self._tokens[node] = tokens - is_there, now
        if len(self._tokens) > self._limit:
            self._tokens.popitem(last=False)
        return is_there
