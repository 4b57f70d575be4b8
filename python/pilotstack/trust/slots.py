"""Admission limit of port 444: concurrent streams in total and per peer. At the limit, a stream of
the peer with the most streams is evicted. No clocks here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slot:
    """The slot of one stream.

    Args:
        peer: the peer of the stream.
        evict: called when the slot is given to another peer.
    """

    __slots__ = ("evict", "peer")

    def __init__(self, peer: int, evict: Callable[[], None]) -> None:
        self.peer = peer
        self.evict = evict


class Slots:
    """The slots of all streams.

    Args:
        limit: upper bound in total.
        limit_per_peer: upper bound per peer.
    """

    def __init__(self, limit: int, limit_per_peer: int) -> None:
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        #: Slots of each peer, oldest first; ``True`` for those that cannot be evicted.
        self._taken: dict[int, dict[Slot, bool]] = {}
        self.total = 0

    def enter(self, slot: Slot) -> bool:
        """Adds a slot. Returns whether the limits allow it, possibly after an eviction."""
        own = self._taken.get(slot.peer, {})
        if len(own) >= self._limit_per_peer:
            return False
        if self.total >= self._limit and not self._evict(len(own)):
            return False
        self._taken.setdefault(slot.peer, own)[slot] = False
        self.total += 1
        return True

    def hold(self, slot: Slot) -> None:
        """Protects a slot from eviction."""
        own = self._taken.get(slot.peer, {})
        if slot in own:
            own[slot] = True

    def leave(self, slot: Slot) -> None:
        """Removes a slot; may be repeated."""
        own = self._taken.get(slot.peer, {})
        if own.pop(slot, None) is None:
            return
        self.total -= 1
        if not own:
            del self._taken[slot.peer]

    def _evict(self, fewer: int) -> bool:
        """Evicts a slot of the peer with the most slots, if it has more than ``fewer`` + 1."""
        for peer in sorted(self._taken, key=lambda peer: len(self._taken[peer]), reverse=True):
            if len(self._taken[peer]) <= fewer:
                return False
            idle = next((slot for slot, is_held in self._taken[peer].items() if not is_held), None)
            if idle is not None:
                self.leave(idle)
                idle.evict()
                return True
        return False
