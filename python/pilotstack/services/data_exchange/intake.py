"""Between the event loop and a file: blocks are written in a thread while the next one arrives."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from pilotstack.services.data_exchange.refusals import Refused, telling

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from pilotstack.services.data_exchange.partial import Partial

__all__ = ["Intake"]

#: Bytes that are handed over at once.
BLOCK: Final = 1 << 20
#: Pieces of a block: a peer that sends single bytes does not fill memory with them.
_MAX_PARTS: Final = 512


class Intake:
    """Feeds one file.

    At most two blocks are in memory: the one that is written and the one that is read.

    Args:
        partial: the file.
        threads: where it is written.
    """

    def __init__(self, partial: Partial, threads: Executor) -> None:
        self.partial = partial
        self._threads = threads
        self._parts: list[bytes] = []
        self._held = 0
        self._running: Future[None] | None = None
        #: Where the next byte belongs.
        self.offset = partial.offset

    async def put(self, data: bytes) -> None:
        """Takes bytes; waits while the disk is behind.

        Raises:
            Refused: bytes before these could not be stored.
        """
        size = self.partial.size
        if size is not None and self.offset + len(data) > size:
            raise Refused("malformed", "more data than was announced")
        self._parts.append(data)
        self._held += len(data)
        self.offset += len(data)
        if self._held >= BLOCK or len(self._parts) >= _MAX_PARTS:
            await self._hand_over()

    async def rehash(self) -> None:
        """Hashes what is there of a file that is resumed, while more arrives."""
        self._running = self._threads.submit(self.partial.rehash)

    async def flush(self) -> None:
        """Returns when everything is written.

        Raises:
            Refused: it could not be stored.
        """
        if self._parts:
            await self._hand_over()
        await self._finish()

    async def settle(self) -> None:
        """Returns when no thread uses the file any more; what arrived is written, if it can be."""
        with anyio.CancelScope(shield=True), suppress(Refused):
            await self.flush()

    async def _hand_over(self) -> None:
        await self._finish()
        parts, self._parts, self._held = self._parts, [], 0
        self._running = self._threads.submit(self.partial.write, parts)

    async def _finish(self) -> None:
        running = self._running
        if running is None:
            return
        if not running.done():
            await anyio.to_thread.run_sync(_wait, running)
        self._running = None
        with telling():
            running.result()


def _wait(running: Future[None]) -> None:
    running.exception()
