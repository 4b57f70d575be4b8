"""The figures of the lab beside those of the pairs: which there are, and how each is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
from tests.lab import endurance, events, idle, narrow, uses
from tests.lab.figures import Figure
from tests.lab.trial import text_of

from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.lab.trial import Pair

#: What may go wrong in a network; anything else is a mistake of the lab.
FAULTS = (PilotError, anyio.BrokenResourceError, TimeoutError, AssertionError)


@dataclass(frozen=True, slots=True)
class Check:
    """Something that yields figures."""

    group: str
    name: str
    measure: Callable[[], Awaitable[list[Figure]]]

    async def run(self) -> list[Figure]:
        """Measures; whatever goes wrong misses the figure."""
        try:
            return await self.measure()
        except* FAULTS as errors:
            reason = text_of(errors)
        return [Figure(self.name, "works", reason, False)]


async def _one(figure: Awaitable[Figure]) -> list[Figure]:
    return [await figure]


def _numbered(number: int) -> Pair:
    """The usual pair, told apart from the others of a run."""
    return replace(events.PAIR, number=number)


async def _use(first: str, second: str, lab: Path | None, number: int) -> list[Figure]:
    done = await uses.use(first, second, lab, number)
    what = f"private nodes, {first} to {second}: handshake, echo, HTTP, 64 MB"
    return [Figure(what, "all work", f"{len(done)} steps", True)]


async def _narrow(way: str, place: str, lab: Path | None, number: int) -> list[Figure]:
    seconds = {}
    for mtu in narrow.MTUS:
        times = [await narrow.transfer(place, mtu, lab, number) for _ in range(3)]
        seconds[mtu] = sorted(times)[1]
    return narrow.figures(way, seconds)


def checks(lab: Path | None, *, is_long: bool, tell: Callable[[str], None]) -> list[Check]:
    """All of them, in the order of the page.

    Args:
        is_long: the endurance transfer has 500 MB instead of 50.
        tell: called with what happens in it.
    """
    numbers = iter(range(500, 600))
    found: list[Check] = []

    def add(group: str, name: str, measure: Callable[[Pair], Awaitable[list[Figure]]]) -> None:
        found.append(Check(group, name, partial(measure, _numbered(next(numbers)))))

    for side in (0, 1):
        role = events.ROLES[side]
        for what, happen in (
            ("host moves", events.move_host),
            ("router gets another address", events.renumber_home),
            ("NAT forgets", events.reboot_nat),
        ):
            add("events", f"{role}'s {what}", lambda p, s=side, h=happen: _one(h(p, lab, s)))
    add("events", "direct path goes silent", lambda p: events.silence_path(p, lab))
    for back in (True, False):
        name = "beacon restarts" if back else "beacon dies"
        add(
            "events",
            name,
            lambda p, b=back: _one(events.lose_beacon(p, lab, comes_back=b)),
        )
    for way, place in (("direct", "port-restricted"), ("relayed", "cut-off")):
        add("mtu", f"MTU, {way}", lambda p, w=way, at=place: _narrow(w, at, lab, p.number))
    add("idle", "keepalives", lambda p: idle.count_keepalives(p, lab))
    add("idle", "short bindings", lambda p: _one(idle.outlive_bindings(p, lab)))
    for first, second in uses.COMBINATIONS:
        add(
            "uses",
            f"{first} to {second}",
            lambda p, a=first, b=second: _use(a, b, lab, p.number),
        )
    size, rate = (500_000_000, 200) if is_long else (50_000_000, 50)
    add(
        "endurance",
        f"{size // 1_000_000} MB",
        lambda p: _one(
            endurance.endure(replace(p, path=f"delay=10ms rate={rate}mbit"), size, lab, tell)
        ),
    )
    return found
