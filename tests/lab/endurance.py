"""One transfer through everything that can happen to its path: two address changes, a beacon that
restarts, and firewalls that switch it from the relay to a direct path and back, twice.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.lab.events import Running, running
from tests.lab.figures import Figure
from tests.lab.trial import BEACONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.lab.trial import Pair

    from pilotstack.testing.internet import Home

#: Things that happen.
_STEPS = 8


async def endure(pair: Pair, size: int, lab: Path | None, tell: Callable[[str], None]) -> Figure:
    """Transfers at least so many bytes.

    Args:
        tell: called with each thing that happens.
    """
    begun = time.perf_counter()
    async with running(replace(pair, has_beacons=True), lab) as here:
        async for text in _happenings(here):
            tell(f"{here.flow.received / 1e6:.0f} MB came; {text}")
            # Each finds the stream in full flow.
            await here.flow.advance(size // _STEPS)
        await here.flow.until(size)
        received = here.flow.received
    seconds = time.perf_counter() - begun
    return Figure(
        f"{size // 1_000_000} MB through two address changes, a beacon's restart and "
        "relay-direct-relay-direct",
        "SHA-256 equal",
        f"equal, {received / 1e6:.0f} MB in {seconds:.0f} s",
        True,
    )


async def _happenings(here: Running) -> AsyncIterator[str]:
    internet = here.scene.internet
    await here.do(here.home(0).renumber)
    await here.until("direct")
    yield "the sender's router has another address"
    await here.do(here.block)
    await here.until("relay")
    yield "the direct path is blocked, the relay carries"
    await here.do(here.scene.restart_beacon)
    yield f"{BEACONS[0]} was restarted under it"
    await here.do(internet.unblock)
    await here.until("direct")
    yield "the direct path is back"
    await here.do(here.block)
    await here.until("relay")
    yield "blocked again"
    await here.do(internet.unblock)
    await here.until("direct")
    yield "back again"
    home, site = here.home(1), here.scene.sites[1]
    cafe: list[Home] = []
    await here.do(lambda: cafe.append(internet.home("cafe", home.nat, home.link)))
    await here.do(lambda: home.leave(site.host))
    await here.do(lambda: cafe[0].join(site.host))
    yield "the receiver's host is in another network"
    await here.until("direct")
    yield "and reached directly there"
