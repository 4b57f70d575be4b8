"""Which path a daemon uses to a peer, from moment to moment, as it says itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from pilotstack import Driver, Stream
    from pilotstack.ipc.answers import PeerInfo

#: Seconds between looks, in which one byte goes to the peer and back.
STEP = 0.02
#: Seconds for anything that passes a network of the lab.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """The path from a moment on."""

    #: Seconds since the dial.
    at: float
    #: ``lan``, ``ipv6``, ``direct`` or ``relay``.
    kind: str
    endpoint: str


@dataclass(slots=True)
class Timeline:
    """The path of one daemon to one peer."""

    started: float = field(default_factory=time.perf_counter)
    moments: list[Moment] = field(default_factory=list)
    #: Set at the next change.
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def note(self, row: PeerInfo | None) -> None:
        """Keeps a change."""
        if row is None or not row.path:
            return
        kind, endpoint = row.path, row.endpoint
        last = self.moments[-1] if self.moments else None
        if last is None or (last.kind, last.endpoint) != (kind, endpoint):
            self.moments.append(Moment(self.now, kind, endpoint))
            self._changed.set()
            self._changed = anyio.Event()

    async def until(self, *, is_relayed: bool) -> None:
        """Waits until the path is, or is not, through a relay."""
        while not self.moments or (self.kind == "relay") != is_relayed:
            await self._changed.wait()

    @property
    def now(self) -> float:
        """Seconds since the dial."""
        return time.perf_counter() - self.started

    @property
    def kind(self) -> str:
        """Of the path that is used now; empty before there is one."""
        return self.moments[-1].kind if self.moments else ""

    @property
    def first_direct(self) -> float | None:
        """When a path without a relay was first used."""
        return next((moment.at for moment in self.moments if moment.kind != "relay"), None)


async def row_of(driver: Driver, node: int) -> PeerInfo | None:
    """What a daemon says of a peer."""
    return next((row for row in await driver.peers() if row.node_id == node), None)


async def watch(driver: Driver, node: int, timeline: Timeline) -> None:
    """Follows the path until it is cancelled."""
    while True:
        timeline.note(await row_of(driver, node))
        await anyio.sleep_until(anyio.current_time() + STEP)


class Pings:
    """Sends a message to an echo and takes it back, again and again.

    Args:
        size: bytes of a message.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._answered = anyio.Event()

    async def run(self, stream: Stream) -> None:
        """Does so until it is cancelled."""
        while True:
            with anyio.fail_after(PATIENCE):
                await stream.send(bytes(self._size))
                left = self._size
                while left:
                    left -= len(await stream.receive())
            self._answered.set()
            self._answered = anyio.Event()
            await anyio.sleep_until(anyio.current_time() + STEP)

    async def until_answered(self, count: int) -> None:
        """Waits until so many more were answered."""
        for _ in range(count):
            await self._answered.wait()
