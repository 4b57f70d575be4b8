"""One long transfer between two agents, and when its bytes came."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
from tests.lab.timeline import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack import Driver, Stream

#: The daemon has services at ports around 1000.
PORT = 2001
_BLOCK = 1 << 16
#: Seconds without a byte after which a transfer counts as broken: a relay that died is replaced
#: within this time.
_SILENCE = 60.0


class Flow:
    """Sends until it is told to stop.

    Raises:
        TimeoutError: nothing came for a minute.
    """

    def __init__(self) -> None:
        self.received = 0
        #: When bytes came, on the clock of :func:`time.perf_counter`, and how many there were then.
        self.arrivals: list[tuple[float, int]] = []
        self._sent, self._came = hashlib.sha256(), hashlib.sha256()
        self._is_stopping = False
        self._moved = anyio.Event()

    def stop(self) -> None:
        """Ends the stream after the block that is being sent."""
        self._is_stopping = True

    @property
    def is_whole(self) -> bool:
        """Whether the bytes that came are those that were sent."""
        return self._sent.digest() == self._came.digest()

    async def send(self, stream: Stream) -> None:
        """One end."""
        block = os.urandom(_BLOCK)
        while not self._is_stopping:
            # Each block differs from all before.
            block = self._sent.digest() + block[:-32]
            self._sent.update(block)
            await stream.send(block)
        await stream.send_eof()

    async def take(self, stream: Stream) -> None:
        """The other end."""
        while True:
            try:
                with anyio.fail_after(_SILENCE):
                    data = await stream.receive()
            except anyio.EndOfStream:
                return
            self._came.update(data)
            self.received += len(data)
            self.arrivals.append((time.perf_counter(), self.received))
            self._moved.set()
            self._moved = anyio.Event()

    async def until(self, size: int) -> None:
        """Waits until this many came in all."""
        while self.received < size:
            await self._moved.wait()

    async def advance(self, size: int) -> None:
        """Waits until this many more came."""
        await self.until(self.received + size)

    def longest_gap(self, since: float) -> float:
        """The longest time without a byte after a moment, seconds."""
        times = [since, *(at for at, _ in self.arrivals if at > since)]
        return max((b - a for a, b in pairwise(times)), default=0.0)


@asynccontextmanager
async def flowing(a: Driver, b: Driver) -> AsyncIterator[Flow]:
    """A transfer from a to b that has begun; it ends, whole, with the block."""
    flow = Flow()
    async with await b.listen(PORT) as listener, anyio.create_task_group() as tasks:

        async def take() -> None:
            async with await listener.accept() as stream:
                await flow.take(stream)

        tasks.start_soon(take)
        async with await a.dial(f"agent-b:{PORT}", timeout=PATIENCE) as stream:
            tasks.start_soon(flow.send, stream)
            yield flow
            flow.stop()
            # The other end closes when it has everything.
            with anyio.fail_after(60):
                while await _has_more(stream):
                    pass
    if not flow.is_whole:
        raise AssertionError("the bytes that came are not those that were sent")


async def _has_more(stream: Stream) -> bool:
    try:
        await stream.receive()
    except anyio.EndOfStream:
        return False
    return True
