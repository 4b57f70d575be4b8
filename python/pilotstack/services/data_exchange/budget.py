"""How much memory messages that are not complete may hold, one peer's and all together. No IO."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pilotstack.services.data_exchange.refusals import Refused

__all__ = ["Budget", "Hold"]

#: Bytes in all, and of one peer.
TOTAL: Final = 128 << 20
PER_PEER: Final = 32 << 20


class Budget:
    """Bytes that are held.

    Args:
        total: in all.
        per_peer: for one peer.
    """

    def __init__(self, total: int = TOTAL, per_peer: int = PER_PEER) -> None:
        self._total = total
        self._per_peer = per_peer
        self._held: Counter[int] = Counter()
        self.held = 0

    def hold(self, peer: int) -> Hold:
        """What one message holds; to be entered."""
        return Hold(self, peer)

    def take(self, peer: int, count: int) -> None:
        """Takes bytes.

        Raises:
            Refused: there are no more.
        """
        if self.held + count > self._total or self._held[peer] + count > self._per_peer:
            raise Refused("busy", "the receiver is busy, try again later")
        self.held += count
        self._held[peer] += count

    def give(self, peer: int, count: int) -> None:
        """Gives bytes back."""
        self.held -= count
        self._held[peer] -= count
        if not self._held[peer]:
            del self._held[peer]


class Hold:
    """Bytes of one message, until the context ends."""

    def __init__(self, budget: Budget, peer: int) -> None:
        self._budget = budget
        self._peer = peer
        self._count = 0

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._peer, self._count)

    def take(self, count: int) -> None:
        """Takes more.

        Raises:
            Refused: there are no more.
        """
        self._budget.take(self._peer, count)
        self._count += count
