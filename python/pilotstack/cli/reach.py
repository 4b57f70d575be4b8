"""Commands about reachability: how a connection comes about, and what stands in its way."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import click
import msgspec
from msgspec import UNSET, UnsetType

from pilotstack import _commands, wellknown
from pilotstack.cli.context import asynchronous, find, global_options
from pilotstack.cli.durations import Duration
from pilotstack.cli.outcome import Incomplete
from pilotstack.cli.status import path_row
from pilotstack.cli.text import members_of
from pilotstack.errors import InvalidArgument, NotRunning, PilotError, TimedOut, Unavailable
from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver, Stream
    from pilotstack.netcheck.messages import Endpoint
    from pilotstack.netcheck.report import Report
    from pilotstack.types import Address

#: Samples of the round trip.
_SAMPLES: Final = 3
_PHASES: Final = {"name": "phase", "ms": "ms", "detail": "detail"}
_PATH: Final = {"path": "path", "endpoint": "through", "rtt": "rtt ms", "mtu": "mtu", "age": "age"}
_FINDINGS: Final = {"name": "check", "result": "result", "meaning": "what it means"}
_BEACONS: Final = {"beacon": "beacon", "rtt_ms": "rtt ms", "reflexive": "sees us as"}


class Sample(msgspec.Struct, frozen=True):
    """A round trip."""

    bytes: int
    rtt_ms: float


class Route(msgspec.Struct):
    """How a connection came about. Times are milliseconds."""

    target: str
    to: str
    setup_ms: float = 0.0
    phases: list[a.Phase] = []
    rtt_samples: list[Sample] = []
    #: The path in use at the end; unset with an older daemon.
    path: a.PeerInfo | UnsetType = UNSET


@_commands.command()
@click.argument("target")
@click.option(
    "--timeout",
    type=Duration(),
    default=30.0,
    show_default="30s",
    help="For the connection, and for each answer.",
)
@global_options
@asynchronous
async def traceroute(settings: Settings, target: str, timeout: float) -> None:
    """Set up a connection step by step, and show times and the path.

    The steps are: finding the node (resolve), keys and a session (tunnel), the change to a better
    path if there was one (path), and a connection to its echo service (dial). Three round trips on
    that connection follow.
    """
    route = Route(target, "")
    failure: PilotError | None = None
    waiting = settings.output.waiting(f"looking for a way to {target}")
    async with settings.driver() as driver:
        begun = time.perf_counter()
        address = await find(driver, target)
        route.to = str(address)
        named = _ms(begun)
        try:
            with waiting, anyio.fail_after(timeout):
                await _set_up(driver, address, route, named)
            async with _dialled(driver, address, route, timeout) as stream:
                route.setup_ms = _ms(begun)
                for _ in range(_SAMPLES):
                    with anyio.fail_after(timeout):
                        route.rtt_samples.append(await _sample(stream))
        except TimeoutError as error:
            failure = TimedOut(str(error) or f"{target} does not answer", hint="raise --timeout")
        except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
            failure = TimedOut(f"{target} does not answer: {error}", hint=_hint(address))
        except PilotError as error:
            failure = error
        await _note_path(driver, address, route, begun)
    if failure is not None:
        raise Incomplete(failure, members_of(route))
    settings.output.success(route, lambda screen: _render(screen, route))


def _hint(address: Address) -> str:
    return f"see: pilotctl peers --candidates --search {address.node}"


async def _set_up(driver: Driver, address: Address, route: Route, named: float) -> None:
    """The steps that the daemon knows of. An older one does them while it dials."""
    if address.node == (await driver.info()).node_id:
        route.phases.append(a.Phase("resolve", named, "this node"))
        return
    try:
        traced = await driver.ask(r.Trace(address.node))
    except Unavailable:
        route.phases.append(a.Phase("resolve", named, "the name only"))
        return
    for phase in traced.phases:
        is_first = phase.name == "resolve"
        more = named if is_first else 0.0
        route.phases.append(msgspec.structs.replace(phase, ms=round(phase.ms + more, 3)))


@asynccontextmanager
async def _dialled(
    driver: Driver, address: Address, route: Route, timeout: float
) -> AsyncIterator[Stream]:
    """A connection to the echo service, whose set-up is noted."""
    begun = time.perf_counter()
    with anyio.fail_after(timeout):
        stream = await driver.dial((address, wellknown.ECHO_PORT), no_delay=True)
    route.phases.append(a.Phase("dial", _ms(begun), f"port {wellknown.ECHO_PORT}"))
    async with stream:
        yield stream


async def _sample(stream: Stream) -> Sample:
    payload = b"traceroute"
    begun = time.perf_counter()
    await stream.send(payload)
    echoed = b""
    while len(echoed) < len(payload):
        echoed += await stream.receive()
    return Sample(len(echoed), _ms(begun))


async def _note_path(driver: Driver, address: Address, route: Route, begun: float) -> None:
    """Adds the path that is in use now, and how long after the tunnel it came into use if that was
    during the trace."""
    try:
        rows = (await driver.ask(r.ListPeers(address.node))).peers
    except PilotError:
        return
    for row in rows:
        route.path = row
        since = 1000 * (time.perf_counter() - begun - row.path_age)
        if row.path and since > 0:
            before = [phase for phase in route.phases if phase.name != "dial"]
            took = max(0.0, since - sum(phase.ms for phase in before))
            way = f"{row.path}, by {row.beacon if row.relay else row.endpoint}"
            route.phases.insert(len(before), a.Phase("path", round(took, 3), way))


def _ms(begun: float) -> float:
    return round(1000 * (time.perf_counter() - begun), 3)


def _render(screen: Screen, route: Route) -> None:
    screen.rows(f"to {route.target} ({route.to})", _PHASES, route.phases)
    if route.path is not UNSET:
        screen.rows("path", _PATH, [path_row(route.path)])
    times = ", ".join(f"{sample.rtt_ms:.3f}" for sample in route.rtt_samples)
    screen.print(f"set-up {route.setup_ms:.1f} ms, round trips {times} ms")


@_commands.command()
@click.option(
    "--beacon",
    "beacons",
    multiple=True,
    envvar="PILOT_BEACON",
    help="Beacon, host:port; several, by commas or by repeating the flag. Those of the daemon "
    "unless given (PILOT_BEACON).",
)
@global_options
@asynchronous
async def netcheck(settings: Settings, beacons: tuple[str, ...]) -> None:
    """Find out what stands between this host and its peers.

    It asks beacons from sockets of its own, so the daemon need not run. Two beacons at different
    addresses are needed to tell how a NAT maps ports.
    """
    from pilotstack.netcheck.check import check
    from pilotstack.netcheck.report import port_mapping

    info = _info(settings)
    named = [part.strip() for text in beacons for part in text.split(",") if part.strip()]
    with settings.output.waiting("asking beacons"):
        report = await check(await resolved_beacons(named or _of_daemon(info)))
    mapping = info.port_mapping if info else a.PortMappingInfo(error="no daemon answers")
    finding = port_mapping(mapping.protocol, mapping.external, mapping.error or "it was not asked")
    report = msgspec.structs.replace(report, findings=(*report.findings, finding))
    settings.output.success(report, lambda screen: _render_report(screen, report))


def _info(settings: Settings) -> a.Info | None:
    """The daemon's state, if one answers."""
    with suppress(NotRunning), settings.session() as session:
        return session.ask(r.GetInfo())
    return None


def _of_daemon(info: a.Info | None) -> Sequence[str]:
    if info is None:
        raise NotRunning("no daemon answers", hint="start the daemon, or name --beacon")
    found = info.beacons or ((info.beacon_addr,) if info.beacon_addr else ())
    if not found:
        raise InvalidArgument("the daemon has no beacon", hint="name one with --beacon")
    return found


async def resolved_beacons(named: Sequence[str]) -> list[Endpoint]:
    """Addresses of both families of each beacon.

    Raises:
        InvalidArgument: none has any.
    """
    from pilotstack import _resolving, _serving
    from pilotstack.netcheck.messages import Endpoint

    found: dict[Endpoint, None] = {}
    for text in named[:_MOST_BEACONS]:
        host, port = _serving.split_address(text)
        with suppress(OSError):
            for address in await _resolving.resolve(host):
                found[Endpoint(address, port)] = None
    if not found:
        raise InvalidArgument(
            f"no beacon's name can be resolved: {', '.join(named)}", hint="check the names"
        )
    return list(found)


_MOST_BEACONS: Final = 8


def _render_report(screen: Screen, report: Report) -> None:
    screen.rows("beacons", _BEACONS, report.beacons)
    screen.rows("network", _FINDINGS, report.findings)


COMMANDS = (netcheck, traceroute)
