"""How much memory may be held for what has not arrived whole, for one peer and for all. No IO.

A full room is shared by max-min fairness: who asks for more gets it from the peer that holds the
most, of which what moved last the longest ago is given up. So peers that fill the room cannot keep
others out. Where nobody holds more than who asks, what has not moved for a while gives way.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Budget", "Full", "Hold"]

#: Bytes in all, and of one peer.
TOTAL: Final = 128 << 20
PER_PEER: Final = 32 << 20
#: Seconds without a byte after which something gives way also to peers that hold more.
IDLE: Final = 10.0


class Full(Exception):
    """There is no room."""


class Budget:
    """Bytes that are held.

    Args:
        total: in all.
        per_peer: for one peer.
        clock: seconds.
    """

    def __init__(
        self,
        total: int = TOTAL,
        per_peer: int = PER_PEER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._per_peer = per_peer
        self._clock = clock
        self._of: Counter[int] = Counter()
        #: What can be given up, that which moved last at the end.
        self._holds: dict[Hold, None] = {}
        self.held = 0

    def hold(self, peer: int, give_up: Callable[[], object]) -> Hold:
        """What is held for one thing; to be entered.

        Args:
            give_up: called when its bytes are wanted for others: they are to be freed at once.
        """
        return Hold(self, peer, give_up)

    def _take(self, hold: Hold, count: int) -> None:
        own = self._of[hold.peer] + count
        if own > self._per_peer or hold.is_given_up:
            raise Full
        while self.held + count > self._total:
            found = self._next(hold, own)
            if found is None:
                raise Full
            self._free(found)
            found.is_given_up = True
            found.give_up()
        self.held += count
        self._of[hold.peer] = own
        hold.count += count
        hold.moved = self._clock()
        self._holds.pop(hold, None)
        self._holds[hold] = None

    def _next(self, hold: Hold, own: int) -> Hold | None:
        """What is given up, for a peer that would hold ``own`` bytes."""
        others = [each for each in self._holds if each is not hold and each.peer != hold.peer]
        if not others:
            return None
        most = max(self._of[each.peer] for each in others)
        if most > own:
            return next(each for each in others if self._of[each.peer] == most)
        return others[0] if self._clock() - others[0].moved >= IDLE else None

    def _give(self, hold: Hold, count: int) -> None:
        if hold.is_given_up:
            return
        self.held -= count
        hold.count -= count
        self._of[hold.peer] -= count
        if not self._of[hold.peer]:
            del self._of[hold.peer]
        if not hold.count:
            self._holds.pop(hold, None)

    def _free(self, hold: Hold) -> None:
        self._give(hold, hold.count)
        self._holds.pop(hold, None)

    def _keep(self, hold: Hold) -> None:
        self._holds.pop(hold, None)


class Hold:
    """Bytes of one thing, until the context ends."""

    __slots__ = ("_budget", "count", "give_up", "is_given_up", "moved", "peer")

    def __init__(self, budget: Budget, peer: int, give_up: Callable[[], object]) -> None:
        self._budget = budget
        self.peer = peer
        self.give_up = give_up
        self.count = 0
        #: When bytes were taken last.
        self.moved = 0.0
        self.is_given_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget._free(self)

    def take(self, count: int) -> None:
        """Takes more bytes, or gives some back if negative.

        Raises:
            Full: there is no room.
        """
        if count < 0:
            self._budget._give(self, -count)
        elif count:
            self._budget._take(self, count)

    def keep(self) -> None:
        """It is complete: it is not given up any more, and ends soon."""
        self._budget._keep(self)
