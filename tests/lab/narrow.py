"""One MiB over links that carry smaller packets than anybody says: no router sends ICMP."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from tests.lab.figures import Figure
from tests.lab.timeline import PATIENCE
from tests.lab.trial import DELAY, Pair, scene

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pilotstack import Listener

MTUS = (1500, 1280, 1124, 900, 600)
_SIZE = 1 << 20
_PORT = 2002
#: How much longer a transfer may take than with an MTU of 1500.
_BOUND = 1.5


async def transfer(place: str, mtu: int, lab: Path | None, number: int = 0) -> float:
    """Seconds from the dial until one MiB came, between two agents that were never in touch."""
    pair = Pair(place, place, number, path=f"delay={DELAY}ms rate=100mbit mtu={mtu}")
    async with (
        scene(pair, lab) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
    ):
        return await move(a, b)


async def move(a: Driver, b: Driver) -> float:
    """Seconds from the dial until one MiB came."""
    came_at = 0.0

    async def take(listener: Listener) -> None:
        nonlocal came_at
        left = _SIZE
        async with await listener.accept() as stream:
            while left:
                left -= len(await stream.receive())
        came_at = time.perf_counter()

    with anyio.fail_after(PATIENCE):
        async with await b.listen(_PORT) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(take, listener)
            began = time.perf_counter()
            async with await a.dial(f"agent-b:{_PORT}", timeout=PATIENCE) as stream:
                await stream.send(bytes(_SIZE))
                await stream.send_eof()
                # The other end closes when it has everything.
                with suppress(anyio.EndOfStream):
                    await stream.receive()
    return came_at - began


def figures(way: str, seconds: Mapping[int, float]) -> list[Figure]:
    """The bound on each MTU."""
    found = []
    for mtu in MTUS[1:]:
        took, usual = seconds[mtu], seconds[1500]
        is_whole = math.isfinite(took) and math.isfinite(usual)
        found.append(
            Figure(
                f"1 MiB over MTU {mtu}, {way}, no ICMP",
                f"{_BOUND} x the time at 1500",
                f"{took * 1000:.0f} ms, {took / usual:.2f} x" if is_whole else "not in time",
                is_whole and took / usual <= _BOUND,
            )
        )
    return found
