"""One pair of places: two agents that were never in touch, one dials the other."""

from __future__ import annotations

import time
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from tests.lab.places import PLACES, Expected, Site, build, expected
from tests.lab.timeline import PATIENCE, Pings, Timeline, row_of, watch

from pilotstack import Driver
from pilotstack.errors import PilotError
from pilotstack.testing.internet import Agent, Agents, Internet, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pilotstack import Stream
    from pilotstack.testing import Process
    from pilotstack.testing.internet import Host

_PORT = 2000
#: Bytes of a message of the exchange: more than a packet that keeps or tries a path.
_MESSAGE = 1000
#: Seconds that a pair gets until it counts as relayed.
CHANCE = 8.0
#: Milliseconds of each uplink, one way, and of the way to the beacon and back.
DELAY = 10
RELAY_RTT = 4 * DELAY / 1000
#: Names of beacons that can be stopped alone, the preferred one first.
BEACONS = ("beacon-1", "beacon-2")
#: Name of the beacon beside that of the rendezvous.
SECOND_BEACON = "second-beacon"


#: What may go wrong in a network; anything else is a mistake of the lab.
FAULTS = (
    PilotError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    TimeoutError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """What to try.

    Args:
        number: tells trials of one run apart.
        path: of each agent's uplink, as ``pilot-lab`` reads it; a plain cable if empty.
        is_public: everybody may reach the agents; otherwise only those whom they trust.
        has_beacons: two beacons that are not in the registry's process.
    """

    first: str
    second: str
    number: int = 0
    path: str = f"delay={DELAY}ms"
    mtu: int = 1500
    is_public: bool = True
    has_beacons: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Times are seconds since the dial."""

    first: str
    second: str
    expected: str
    #: ``direct``, ``predicted``, ``mapped``, ``relayed`` or ``none``.
    outcome: str = "none"
    first_path: str = ""
    last_path: str = ""
    first_byte: float | None = None
    direct: float | None = None
    error: str = ""

    @property
    def way(self) -> str:
        """How a direct path came about whose endpoint no router was asked for: the behaviour of
        these NATs permits no other way."""
        is_seen = self.expected == Expected.DIRECT.value
        return Expected.DIRECT.value if is_seen else Expected.PREDICTED.value

    @property
    def is_well(self) -> bool:
        """Whether it is at least what was expected; a guess may fail."""
        if self.error:
            return False
        needs_luck = self.expected in (Expected.PREDICTED.value, Expected.RELAYED.value)
        return self.outcome != "relayed" or needs_luck

    @property
    def has_upgraded(self) -> bool:
        """Whether the relay carried the first byte and a direct path the later ones."""
        return self.first_path == "relay" and self.direct is not None


@dataclass(frozen=True, slots=True)
class Scene:
    """Two agents, the internet between them, and their rendezvous."""

    internet: Internet
    agents: Agents
    sites: tuple[Site, Site]
    nodes: tuple[Agent, Agent]
    #: Those with a process of their own, by name.
    beacons: dict[str, tuple[Host, Process]]

    def restart_beacon(self) -> None:
        """Stops the preferred beacon and starts it again."""
        host, process = self.beacons[BEACONS[0]]
        process.stop()
        self.beacons[BEACONS[0]] = host, self.agents.beacon(BEACONS[0], host)

    def stop_beacon(self) -> None:
        """Stops the preferred beacon for good."""
        self.beacons[BEACONS[0]][1].stop()


def lay_out(
    stack: ExitStack, pair: Pair, lab: Path | None
) -> tuple[Internet, Host, tuple[Site, Site]]:
    """Builds an internet with a host for a rendezvous, and both places."""
    internet = stack.enter_context(Internet(f"pilotlab{pair.number}", lab=lab))
    rendezvous = internet.public("rendezvous", Link(has_ipv6=True))

    def site(name: str, role: str) -> Site:
        place = PLACES[name]
        link = Link(place.has_ipv4, place.has_ipv6, pair.path, pair.mtu)
        return build(stack, internet, place, role, rendezvous, link)

    return internet, rendezvous, (site(pair.first, "first"), site(pair.second, "second"))


def set_up(stack: ExitStack, pair: Pair, lab: Path | None) -> Scene:
    """Builds and starts everything that a pair needs. There are always two beacons."""
    internet, rendezvous, sites = lay_out(stack, pair, lab)
    agents = stack.enter_context(Agents())
    beacons = {}
    if pair.has_beacons:
        agents.registry(rendezvous)
        for name in BEACONS:
            host = internet.public(name, Link(has_ipv6=True))
            beacons[name] = host, agents.beacon(name, host)
    else:
        agents.rendezvous(rendezvous)
        # What a NAT does shows in what two beacons see.
        second = internet.public(SECOND_BEACON, Link(has_ipv6=True))
        agents.beacon(SECOND_BEACON, second)
    a, b = (
        agents.start(name, site.host, is_public=pair.is_public)
        for name, site in zip(("agent-a", "agent-b"), sites, strict=True)
    )
    return Scene(internet, agents, sites, (a, b), beacons)


@asynccontextmanager
async def scene(pair: Pair, lab: Path | None) -> AsyncIterator[Scene]:
    """Builds it in a thread, and removes it whatever happens."""
    stack = ExitStack()
    try:
        yield await to_thread.run_sync(set_up, stack, pair, lab)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(stack.close)


async def run(pair: Pair, lab: Path | None, chance: float = CHANCE) -> Result:
    """Tries a pair; whatever goes wrong is part of the result.

    Args:
        chance: seconds for a direct path.
    """
    wish = expected(PLACES[pair.first], PLACES[pair.second])
    result = Result(pair.first, pair.second, wish.value)
    try:
        async with (
            scene(pair, lab) as made,
            Driver(made.nodes[0].socket) as a,
            Driver(made.nodes[1].socket) as b,
        ):
            result = await _dial(a, b, made, result, chance)
    except* FAULTS as errors:
        result = replace(result, error=text_of(errors))
    return result


def text_of(errors: BaseExceptionGroup[BaseException]) -> str:
    """The first of several errors that belong together."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # What a process says before it ends may be long; its end says why.
    return (str(error) or type(error).__name__)[-300:]


class Echo:
    """Sends back what comes, and remembers when the first byte came."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.first_byte = 0.0
        self.heard = anyio.Event()

    async def __call__(self, stream: Stream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):
                while True:
                    data = await stream.receive()
                    if not self.heard.is_set():
                        self.first_byte = self._timeline.now
                        self.heard.set()
                    await stream.send(data)


async def _dial(a: Driver, b: Driver, made: Scene, result: Result, chance: float) -> Result:
    timeline, seen_by_b = Timeline(), Timeline()
    echo, pings = Echo(timeline), Pings(_MESSAGE)
    first, second = (site.outside for site in made.sites)
    await to_thread.run_sync(lambda: made.internet.count(first, second, longer_than=_MESSAGE))
    async with await b.listen(_PORT) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        timeline.started = seen_by_b.started = time.perf_counter()
        tasks.start_soon(watch, a, made.nodes[1].node_id, timeline)
        tasks.start_soon(watch, b, made.nodes[0].node_id, seen_by_b)
        async with (
            await a.dial((made.nodes[1].address, _PORT), timeout=PATIENCE, no_delay=True) as stream,
            anyio.create_task_group() as pinging,
        ):
            pinging.start_soon(pings.run, stream)
            await echo.heard.wait()
            timeline.note(await row_of(a, made.nodes[1].node_id))
            first_path = timeline.kind
            with anyio.move_on_after(chance):
                await timeline.until(is_relayed=False)
                await seen_by_b.until(is_relayed=False)
            # Those under way when the path changed may still have gone the other way.
            await pings.until_answered(3)
            passed = await to_thread.run_sync(lambda: made.internet.counted)
            is_mapped = await _is_mapped(a, b) or await _is_mapped(b, a)
            pinging.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    is_direct = timeline.kind != "relay"
    if is_direct and not all(passed):
        raise AssertionError(f"the daemon says {timeline.kind!r}, but nothing went directly")
    way = Expected.MAPPED.value if is_mapped else result.way
    return replace(
        result,
        outcome=way if is_direct else "relayed",
        first_path=first_path,
        last_path=timeline.kind,
        first_byte=echo.first_byte,
        direct=timeline.first_direct,
    )


async def _is_mapped(driver: Driver, peer: Driver) -> bool:
    """Whether a daemon sends to an endpoint that the peer's router was asked for."""
    told = await peer.info()
    row = await row_of(driver, told.node_id)
    return row is not None and row.path == "direct" and row.endpoint == told.port_mapping.external
