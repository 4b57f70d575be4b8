"""Makes the observations of both families and puts the report together."""

from __future__ import annotations

import socket as sockets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from pilotstack import _interfaces, _resolving
from pilotstack.netcheck import mtu, report
from pilotstack.netcheck.behaviour import (
    Filtering,
    Mapping,
    Seen,
    allocation_of,
    filtering_of,
    mapping_of,
)
from pilotstack.netcheck.messages import Endpoint
from pilotstack.netcheck.report import BeaconRow, Report
from pilotstack.netcheck.sockets import Asking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.netcheck.report import Finding
    from pilotstack.netcheck.sockets import Reply

#: Sockets beside the one that asks all beacons: the pattern of a NAT's ports.
_OTHERS: Final = 3
#: Rounds of questions whose fastest answer is the round trip.
_ROUNDS: Final = 3
#: Seconds for the answer to a question of the MTU search at least, and round trips at least.
_LEAST_PAUSE, _ROUND_TRIPS = 0.05, 3.0
_REPEATS: Final = 3
#: RFC 863: a port where nobody answers.
_DISCARD: Final = 9
_FAMILIES: Final[dict[int, int]] = {4: sockets.AF_INET, 6: sockets.AF_INET6}


class Family(NamedTuple):
    """What was observed in one family."""

    version: int
    #: Addresses of this host that others might reach, and those that beacons are asked from.
    own: tuple[str, ...]
    rows: list[Seen]
    #: Seconds of the fastest round trip to each beacon that answered.
    rtts: dict[Endpoint, float]
    #: Local and reflexive ports of several sockets.
    ports: list[tuple[int, int]]
    filtering: Filtering
    mtu: int

    @property
    def mapping(self) -> Mapping:
        """The mapping behaviour."""
        return mapping_of(self.rows, self.own)


async def check(beacons: Sequence[Endpoint]) -> Report:
    """Asks beacons, and reports.

    Args:
        beacons: addresses, of both families where there are any.
    """
    families = [await _observe(version, beacons) for version in _FAMILIES]
    first = next((family for family in families if family.rows), families[0])
    rows = _beacon_rows(beacons, families)
    has_nat = bool(first.rows) and first.mapping is not Mapping.NO_NAT
    findings: list[Finding] = [report.udp(works=bool(first.rows))]
    findings += [report.address(each.version, each.rows, each.own) for each in families]
    findings.append(report.mapping(first.mapping))
    if first.rows:
        findings.append(report.filtering(first.filtering, has_nat=has_nat))
    if has_nat:
        findings.append(report.allocation(allocation_of(first.ports)))
        findings.append(report.hairpinning(first.filtering))
    findings.append(report.relays(rows))
    findings.append(report.mtu({each.version: each.mtu for each in families}))
    return Report(tuple(findings), rows)


def _beacon_rows(beacons: Sequence[Endpoint], families: Sequence[Family]) -> tuple[BeaconRow, ...]:
    seen = {row.beacon: row.reflexive for family in families for row in family.rows}
    rtts = {beacon: rtt for family in families for beacon, rtt in family.rtts.items()}
    return tuple(
        BeaconRow(str(beacon), round(1000 * rtts.get(beacon, 0.0), 3), str(seen.get(beacon, "")))
        for beacon in beacons
    )


async def _observe(version: int, beacons: Sequence[Endpoint]) -> Family:
    """Everything about one family; nothing if this host does not have it."""
    asked = [each for each in beacons if (":" in each.host) == (version == max(_FAMILIES))]
    reachable = [a for a in _interfaces.host_addresses() if (":" in a) == (":" in _ANY[version])]
    sources = (_resolving.source_towards(each.host) for each in asked)
    own = tuple(dict.fromkeys((*reachable, *(source for source in sources if source))))
    nothing = Family(version, own, [], {}, [], Filtering.UNKNOWN, 0)
    with ExitStack() as stack:
        try:
            main, *others = (
                stack.enter_context(Asking(_FAMILIES[version])) for _ in range(1 + _OTHERS)
            )
        except OSError:
            return nothing
        replies = await main.ask(asked)
        if not replies:
            return nothing
        rows = [Seen(main.local, beacon, reply.reflexive) for beacon, reply in replies.items()]
        rtts = await _round_trips(main, replies)
        home = min(rtts, key=lambda beacon: rtts[beacon])
        ports = [(main.local.port, replies[home].reflexive.port)]
        ends = {}
        for other in others:
            answer = await other.ask([home])
            if home in answer:
                ends[other] = answer[home].reflexive
                ports.append((other.local.port, ends[other].port))
        found = nothing._replace(rows=rows, rtts=rtts, ports=ports)
        if found.mapping is not Mapping.NO_NAT and ends:
            second = next(iter(ends))
            filtering = await _filtering(main, replies[home].reflexive, second, ends[second])
            found = found._replace(filtering=filtering)
        return found._replace(mtu=await _mtu(main, home, rtts[home], version))


#: Any address of a family.
_ANY: Final = {4: "0.0.0.0", 6: "::"}


async def _round_trips(main: Asking, replies: dict[Endpoint, Reply]) -> dict[Endpoint, float]:
    found: dict[Endpoint, list[float]] = {beacon: [] for beacon in replies}
    for _ in range(_ROUNDS):
        for beacon, reply in (await main.ask(replies)).items():
            if reply.rtt is not None:
                found[beacon].append(reply.rtt)
    return {beacon: min(times, default=1.0) for beacon, times in found.items()}


async def _filtering(main: Asking, own: Endpoint, second: Asking, end: Endpoint) -> Filtering:
    """Sends to our own reflexive endpoint from a second socket; see :func:`filtering_of`."""
    arrivals = [await second.reaches(main, own)]
    for opened in (Endpoint(end.host, _DISCARD), end):
        if not any(arrivals):
            main.open_towards(opened)
            arrivals.append(await second.reaches(main, own))
    return filtering_of(arrivals)


async def _mtu(main: Asking, home: Endpoint, rtt: float, version: int) -> int:
    pauses = (max(_LEAST_PAUSE, _ROUND_TRIPS * rtt),) * _REPEATS

    async def arrives(length: int) -> bool:
        return home in await main.ask([home], length, pauses)

    link = _interfaces.mtu_towards(home.host) or mtu.MOST
    return await mtu.search(arrives, link, version)
