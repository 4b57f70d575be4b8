"""What happens to a transfer while its path changes under it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from tests.lab.figures import Figure
from tests.lab.flow import PORT, Flow, flowing
from tests.lab.timeline import Timeline, watch
from tests.lab.trial import DELAY, Pair, Scene, scene

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pilotstack.testing.internet import Home

#: A transfer over uplinks of 50 Mbit/s, between the commonest NATs.
PAIR = Pair("port-restricted", "port-restricted", path=f"delay={DELAY}ms rate=50mbit")
_RTT = 4 * DELAY / 1000
#: Bytes between events.
_SOME = 2_000_000
ROLES = ("sender", "receiver")
#: Seconds for a path of another kind.
_CHANCE = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A transfer between two agents, whose paths are followed."""

    scene: Scene
    drivers: tuple[Driver, Driver]
    flow: Flow
    timelines: tuple[Timeline, Timeline]

    async def until(self, kind: str) -> None:
        """Waits until both daemons use a path of this kind (``relay`` or not)."""
        with anyio.fail_after(_CHANCE):
            for timeline in self.timelines:
                await timeline.until(is_relayed=kind == "relay")

    async def do(self, action: Callable[[], None]) -> float:
        """Changes the network; returns when that was done."""
        await to_thread.run_sync(action)
        return time.perf_counter()

    def home(self, side: int) -> Home:
        """The network that an agent is in."""
        home = self.scene.sites[side].home
        assert home is not None
        return home

    def block(self) -> None:
        """Loses what goes directly."""
        first, second = (site.outside for site in self.scene.sites)
        self.scene.internet.block(first, second)


@asynccontextmanager
async def running(pair: Pair, lab: Path | None) -> AsyncIterator[Running]:
    """A transfer on a direct path."""
    async with (
        scene(pair, lab) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
        anyio.create_task_group() as tasks,
    ):
        timelines = Timeline(), Timeline()
        async with flowing(a, b) as flow:
            for driver, node, timeline in zip((a, b), reversed(made.nodes), timelines, strict=True):
                tasks.start_soon(watch, driver, node.node_id, timeline)
            here = Running(made, (a, b), flow, timelines)
            await here.until("direct")
            await flow.advance(_SOME)
            yield here
            await flow.advance(_SOME)
        tasks.cancel_scope.cancel()


def _stall(here: Running, since: float) -> float:
    """How long after a moment the first byte came."""
    return next((at - since for at, _ in here.flow.arrivals if at > since), _CHANCE)


async def move_host(pair: Pair, lab: Path | None, side: int) -> Figure:
    """An agent's host leaves its network and joins another one."""
    async with running(pair, lab) as here:
        site, home = here.scene.sites[side], here.home(side)
        cafe = await to_thread.run_sync(
            lambda: here.scene.internet.home("cafe", home.nat, home.link)
        )
        await here.do(lambda: home.leave(site.host))
        joined = await here.do(lambda: cafe.join(site.host))
        await here.flow.advance(_SOME)
        stall = _stall(here, joined)
    return _figure(f"the {ROLES[side]}'s host joins another network", stall)


async def renumber_home(pair: Pair, lab: Path | None, side: int) -> Figure:
    """A router gets another public address."""
    async with running(pair, lab) as here:
        done = await here.do(here.home(side).renumber)
        await here.flow.advance(_SOME)
        stall = _stall(here, done)
    return _figure(f"the {ROLES[side]}'s router gets another address", stall)


async def reboot_nat(pair: Pair, lab: Path | None, side: int) -> Figure:
    """A NAT forgets its bindings."""
    async with running(pair, lab) as here:
        done = await here.do(here.home(side).reboot)
        await here.flow.advance(_SOME)
        stall = _stall(here, done)
    return _figure(f"the {ROLES[side]}'s NAT forgets its bindings", stall)


def _figure(what: str, stall: float) -> Figure:
    bound = _RTT + 0.2
    return Figure(
        f"transfer, {what}: stall",
        f"1 RTT + 200 ms = {bound * 1000:.0f} ms",
        f"{stall * 1000:.0f} ms, no byte lost",
        stall <= bound,
    )


async def silence_path(pair: Pair, lab: Path | None) -> list[Figure]:
    """The direct path loses everything, and later it works again."""
    async with running(pair, lab) as here:
        [row] = [row for row in await here.drivers[0].connections() if row.remote_port == PORT]
        # RFC 6298, with the minimum of docs/reference/protocol/transport.md.
        timeout = max(row.srtt_ms + 4 * row.rttvar_ms, 200.0) / 1000
        silent = await here.do(here.block)
        await here.until("relay")
        await here.flow.advance(_SOME)
        gap = here.flow.longest_gap(silent)
        back = await here.do(here.scene.internet.unblock)
        await here.until("direct")
        returned = here.timelines[0].started + here.timelines[0].moments[-1].at - back
    return [
        Figure(
            "direct path goes silent: the relay carries traffic, no connection is reset",
            f"3 RTO = {3 * timeout * 1000:.0f} ms",
            f"{gap * 1000:.0f} ms",
            gap <= 3 * timeout,
        ),
        Figure("direct path works again: it is used", "30 s", f"{returned:.1f} s", returned <= 30),
    ]


async def lose_beacon(pair: Pair, lab: Path | None, *, comes_back: bool) -> Figure:
    """The beacon that relays a transfer stops, for good or for a moment."""
    async with running(replace(pair, has_beacons=True), lab) as here:
        await here.do(here.block)
        await here.until("relay")
        await here.flow.advance(_SOME)
        stop, restart = here.scene.stop_beacon, here.scene.restart_beacon
        stopped = time.perf_counter()
        await here.do(restart if comes_back else stop)
        await here.flow.advance(_SOME)
        gap = here.flow.longest_gap(stopped)
    return Figure(
        "relayed transfer, the beacon "
        + ("restarts: resumed" if comes_back else "dies: resumed through another one"),
        "one keepalive = 25 s" if comes_back else "60 s",
        f"{gap:.1f} s, no byte lost",
        gap <= (25.0 if comes_back else 60.0),
    )
