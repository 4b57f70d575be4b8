"""How many streams a service serves at once, in all and for one peer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.client import Stream

    #: Serves one stream, and closes it.
    Handler = Callable[[Stream], Awaitable[object]]

__all__ = ["Limited"]


class Limited:
    """A handler that serves so many streams at once; others are reset.

    Args:
        handler: serves one stream.
        reset: resets one.
        total: streams in all.
        per_peer: streams of one node. A node cannot take the seats of all others.
    """

    def __init__(self, handler: Handler, reset: Handler, *, total: int, per_peer: int) -> None:
        self._handler = handler
        self._reset = reset
        self._total = total
        self._per_peer = per_peer
        self._open: Counter[int] = Counter()
        #: Streams that were reset, because the limit was reached.
        self.refused = 0

    @property
    def streams(self) -> int:
        """Streams that are served now."""
        return self._open.total()

    async def __call__(self, stream: Stream) -> None:
        """Serves a stream, or resets it."""
        peer = stream.remote_address.address.node
        if self.streams >= self._total or self._open[peer] >= self._per_peer:
            self.refused += 1
            async with stream:
                await self._reset(stream)
            return
        self._open[peer] += 1
        try:
            await self._handler(stream)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
