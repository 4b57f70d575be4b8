"""Who may talk on port 444 at once: a few streams of each peer, and so many in all. When they are
all taken, the peer that has most of them gives one up. No clocks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slot:
    """The place of one stream.

    Args:
        peer: whose it is.
        evict: called when the slot is given to somebody else.
    """

    __slots__ = ("evict", "peer")

    def __init__(self, peer: int, evict: Callable[[], None]) -> None:
        self.peer = peer
        self.evict = evict


class Slots:
    """All of them.

    Args:
        limit: of all.
        limit_per_peer: of one peer.
    """

    def __init__(self, limit: int, limit_per_peer: int) -> None:
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        #: Slots of each peer, the oldest first; ``True`` for those that stay.
        self._taken: dict[int, dict[Slot, bool]] = {}
        self.total = 0

    def enter(self, slot: Slot) -> bool:
        """Takes a slot, if its peer has a share left, and another peer has more."""
        own = self._taken.get(slot.peer, {})
        if len(own) >= self._limit_per_peer:
            return False
        if self.total >= self._limit and not self._evict(len(own)):
            return False
        self._taken.setdefault(slot.peer, own)[slot] = False
        self.total += 1
        return True

    def hold(self, slot: Slot) -> None:
        """The stream keeps its slot until it leaves."""
        own = self._taken.get(slot.peer, {})
        if slot in own:
            own[slot] = True

    def leave(self, slot: Slot) -> None:
        """Gives the slot back, once."""
        own = self._taken.get(slot.peer, {})
        if own.pop(slot, None) is None:
            return
        self.total -= 1
        if not own:
            del self._taken[slot.peer]

    def _evict(self, fewer: int) -> bool:
        """Frees a slot of the peer with most, if that is more than ``fewer`` and one."""
        for peer in sorted(self._taken, key=lambda peer: len(self._taken[peer]), reverse=True):
            if len(self._taken[peer]) <= fewer:
                return False
            idle = next((slot for slot, is_held in self._taken[peer].items() if not is_held), None)
            if idle is not None:
                self.leave(idle)
                idle.evict()
                return True
        return False
