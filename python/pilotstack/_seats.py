"""Limits on connections, in total and per source. No clocks here.

When there is no room, a newcomer replaces a connection that has proved nothing, so silent ones
cannot keep others out. If there is none, it replaces one of a source that has far more connections
than the newcomer's, so a few registered nodes cannot, either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: A source with at least so many proven connections, and so many times as many as the newcomer's,
#: gives one up.
_MANY: Final = 16
_TIMES: Final = 4


class Seat:
    """The place of one connection.

    Args:
        source: of the connection.
        evict: called when another connection takes the place; must end the connection.
    """

    __slots__ = ("evict", "is_exempt", "is_held", "is_proven", "source")

    def __init__(self, source: str, evict: Callable[[], None]) -> None:
        self.source = source
        self.evict = evict
        self.is_held = False
        self.is_proven = False
        self.is_exempt = False


class Seats:
    """All seats.

    Args:
        limit: in total; 0 is no limit.
        limit_per_source: of one source; 0 is no limit.
    """

    def __init__(self, limit: int, limit_per_source: int = 0) -> None:
        self._limit = limit
        self._limit_per_source = limit_per_source
        self._taken: dict[str, int] = {}
        #: Unproven seats by source, the oldest first.
        self._unproven: dict[str, dict[Seat, None]] = {}
        #: Proven seats in the same way, without those exempt from the limit of a source.
        self._proven: dict[str, dict[Seat, None]] = {}
        self.total = 0
        #: Number of seats that were taken by other connections.
        self.evicted = 0

    def enter(self, seat: Seat, *, is_exempt: bool = False) -> bool:
        """Takes a seat if there is one, or another connection can be replaced.

        Args:
            is_exempt: ignore the limit of one source.
        """
        own_limit = 0 if is_exempt else self._limit_per_source
        if (
            own_limit
            and self._taken.get(seat.source, 0) >= own_limit
            and not self._evict(seat.source)
        ):
            return False
        if self._limit and self.total >= self._limit:
            # The source with most unproven seats loses one.
            most = max(self._unproven, key=lambda s: len(self._unproven[s]), default="")
            if not (self._evict(most) or self._displace(seat.source)):
                return False
        seat.is_held = True
        seat.is_exempt = is_exempt
        self._taken[seat.source] = self._taken.get(seat.source, 0) + 1
        self._unproven.setdefault(seat.source, {})[seat] = None
        self.total += 1
        return True

    def prove(self, seat: Seat) -> None:
        """Marks a connection as one that has proved something."""
        if seat.is_held and not seat.is_proven:
            self._forget(seat)
            seat.is_proven = True
            if not seat.is_exempt:
                self._proven.setdefault(seat.source, {})[seat] = None

    def withdraw(self, seat: Seat) -> None:
        """Marks a connection as unproven again, as the newest of them."""
        if seat.is_held and seat.is_proven:
            self._forget(seat)
            seat.is_proven = False
            self._unproven.setdefault(seat.source, {})[seat] = None

    def leave(self, seat: Seat) -> None:
        """Gives the seat back; further calls do nothing."""
        if not seat.is_held:
            return
        seat.is_held = False
        self._forget(seat)
        self.total -= 1
        self._taken[seat.source] -= 1
        if not self._taken[seat.source]:
            del self._taken[seat.source]

    def _evict(self, source: str) -> bool:
        return self._give_up(next(iter(self._unproven.get(source, ())), None))

    def _displace(self, newcomer: str) -> bool:
        """Evicts the oldest proven seat of the source with most, if it has far more."""
        most = max(self._proven, key=lambda s: len(self._proven[s]), default="")
        seats = self._proven.get(most, {})
        if len(seats) < max(_MANY, _TIMES * (self._taken.get(newcomer, 0) + 1)):
            return False
        return self._give_up(next(iter(seats)))

    def _give_up(self, seat: Seat | None) -> bool:
        if seat is None:
            return False
        self.leave(seat)
        self.evicted += 1
        seat.evict()
        return True

    def _forget(self, seat: Seat) -> None:
        by_source = self._proven if seat.is_proven else self._unproven
        seats = by_source.get(seat.source, {})
        seats.pop(seat, None)
        if not seats:
            by_source.pop(seat.source, None)
