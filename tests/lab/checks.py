"""The figures of the lab beside those of the pairs: which there are, and how each is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tests.lab import endurance, events, idle, narrow, uses
from tests.lab.figures import Figure
from tests.lab.trial import DELAY, FAULTS, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.lab.trial import Pair


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


async def _happen(
    what: Callable[[Pair, Path | None, int], Awaitable[Figure]],
    side: int,
    lab: Path | None,
    pair: Pair,
) -> list[Figure]:
    return [await what(pair, lab, side)]


async def _silence(lab: Path | None, pair: Pair) -> list[Figure]:
    return await events.silence_path(pair, lab)


async def _beacon(comes_back: bool, lab: Path | None, pair: Pair) -> list[Figure]:
    return [await events.lose_beacon(pair, lab, comes_back=comes_back)]


async def _use(first: str, second: str, lab: Path | None, pair: Pair) -> list[Figure]:
    done = await uses.use(first, second, lab, pair.number)
    what = f"private nodes, {first} to {second}: handshake, echo, HTTP, 64 MB"
    return [Figure(what, "all work", f"{len(done)} steps", True)]


async def _narrow(way: str, place: str, lab: Path | None, pair: Pair) -> list[Figure]:
    seconds = {mtu: await _median(place, mtu, lab, pair.number) for mtu in narrow.MTUS}
    return narrow.figures(way, seconds)


async def _median(place: str, mtu: int, lab: Path | None, number: int) -> float:
    """Of three transfers; infinite if one of them fails."""
    try:
        times = [await narrow.transfer(place, mtu, lab, number) for _ in range(3)]
    except* FAULTS:
        times = [math.inf] * 3
    return sorted(times)[1]


async def _keepalives(lab: Path | None, pair: Pair) -> list[Figure]:
    return await idle.count_keepalives(pair, lab)


async def _bindings(lab: Path | None, pair: Pair) -> list[Figure]:
    return [await idle.outlive_bindings(pair, lab)]


async def _endure(
    size: int, rate: int, tell: Callable[[str], None], lab: Path | None, pair: Pair
) -> list[Figure]:
    path = f"delay={DELAY}ms rate={rate}mbit"
    return [await endurance.endure(replace(pair, path=path), size, lab, tell)]


def checks(lab: Path | None, *, is_long: bool, tell: Callable[[str], None]) -> list[Check]:
    """All of them, in the order of the page.

    Args:
        is_long: the endurance transfer has 500 MB instead of 50.
        tell: called with what happens in it.
    """
    size, rate = (500_000_000, 200) if is_long else (50_000_000, 50)
    rows: list[tuple[str, str, Callable[[Pair], Awaitable[list[Figure]]]]] = [
        ("events", f"{role}'s {what}", partial(_happen, happen, side, lab))
        for side, role in enumerate(events.ROLES)
        for what, happen in (
            ("host moves", events.move_host),
            ("router gets another address", events.renumber_home),
            ("NAT forgets", events.reboot_nat),
        )
    ]
    rows += [
        ("events", "direct path goes silent", partial(_silence, lab)),
        ("events", "beacon restarts", partial(_beacon, True, lab)),
        ("events", "beacon dies", partial(_beacon, False, lab)),
        ("mtu", "MTU, direct", partial(_narrow, "direct", "port-restricted", lab)),
        ("mtu", "MTU, relayed", partial(_narrow, "relayed", "cut-off", lab)),
        ("idle", "keepalives", partial(_keepalives, lab)),
        ("idle", "short bindings", partial(_bindings, lab)),
    ]
    rows += [
        ("uses", f"{first} to {second}", partial(_use, first, second, lab))
        for first, second in uses.COMBINATIONS
    ]
    rows.append(("endurance", f"{size // 1_000_000} MB", partial(_endure, size, rate, tell, lab)))
    return [
        # Numbers tell the namespaces of one from those of another.
        Check(group, name, partial(measure, replace(events.PAIR, number=500 + index)))
        for index, (group, name, measure) in enumerate(rows)
    ]
