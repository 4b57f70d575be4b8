"""Where an agent can be: behind which NATs and firewalls, and what RFC 4787 lets two of them do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tests.lab import port_mapper

from pilotstack.testing.internet import (
    KINDS,
    Allocation,
    Behaviour,
    Home,
    Host,
    Internet,
    Link,
    Nat,
    shield,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

_OPEN = Nat(Behaviour.ENDPOINT_INDEPENDENT, Behaviour.ENDPOINT_INDEPENDENT, Allocation.PRESERVING)


class Expected(Enum):
    """The least that a pair must reach."""

    #: A direct path, because the endpoints that the beacon sees are those that peers need.
    DIRECT = "direct"
    #: A direct path if a port is guessed; the relay otherwise.
    PREDICTED = "predicted"
    #: A direct path to a port that a router was asked for.
    MAPPED = "mapped"
    #: The relay. A direct path takes luck.
    RELAYED = "relayed"


#: Programs that the lab runs beside iproute2.
PROGRAMS = ("nft", "conntrack", "miniupnpd")


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of place.

    Args:
        nat: how it maps and filters IPv4, seen from outside.
        is_cut_off: exchanges UDP with the rendezvous alone.
        maps_ports: the router maps ports when it is asked.
    """

    name: str
    text: str
    nat: Nat = _OPEN
    has_ipv4: bool = True
    has_ipv6: bool = False
    is_cut_off: bool = False
    maps_ports: bool = False


_STATEFUL = Nat(
    Behaviour.ENDPOINT_INDEPENDENT, Behaviour.ADDRESS_AND_PORT_DEPENDENT, Allocation.PRESERVING
)
_CARRIER = KINDS["remapping"]
PLACES = {
    place.name: place
    for place in (
        Place("public", "a public address, reachable by everybody"),
        Place("firewall", "a public address behind a stateful firewall", _STATEFUL),
        *(Place(name, nat.text, nat) for name, nat in KINDS.items()),
        Place(
            "port-mapping",
            "a symmetric NAT whose router maps ports (PCP, NAT-PMP, UPnP)",
            KINDS["symmetric"],
            maps_ports=True,
        ),
        Place("carrier", "a port-restricted NAT behind a remapping carrier-grade NAT", _CARRIER),
        Place(
            "dual-stack",
            "a port-restricted NAT, and IPv6 behind a stateful firewall",
            KINDS["port-restricted"],
            has_ipv6=True,
        ),
        Place("ipv6", "IPv6 only, behind a stateful firewall", has_ipv4=False, has_ipv6=True),
        Place(
            "cut-off",
            "UDP passes to the rendezvous only",
            KINDS["port-restricted"],
            is_cut_off=True,
        ),
    )
}
#: Those whose own mapping never needs a guess.
EASY = [
    place.name
    for place in PLACES.values()
    if place.nat.mapping is Behaviour.ENDPOINT_INDEPENDENT and not place.is_cut_off
]


def pairs() -> Iterator[tuple[str, str]]:
    """Every pair of places, in one order."""
    names = list(PLACES)
    for index, first in enumerate(names):
        for second in names[index:]:
            yield first, second


def expected(first: Place, second: Place) -> Expected:
    """What RFC 4787 behaviour lets a pair reach."""
    if first.is_cut_off or second.is_cut_off:
        return Expected.RELAYED
    if first.has_ipv6 and second.has_ipv6:
        return Expected.DIRECT
    if not (first.has_ipv4 and second.has_ipv4):
        return Expected.RELAYED
    sides = (first.nat, second.nat), (second.nat, first.nat)
    if any(_is_reached(side, other) for side, other in sides):
        return Expected.DIRECT
    if first.maps_ports or second.maps_ports:
        return Expected.MAPPED
    if all(_is_guessable(side) for side, _ in sides):
        return Expected.PREDICTED
    return Expected.RELAYED


def _is_reached(side: Nat, other: Nat) -> bool:
    """Whether a side's endpoint is known and lets the other's datagrams in."""
    independent = Behaviour.ENDPOINT_INDEPENDENT
    return side.mapping is independent and (
        side.filtering is not Behaviour.ADDRESS_AND_PORT_DEPENDENT or other.mapping is independent
    )


def _is_guessable(side: Nat) -> bool:
    return (
        side.mapping is Behaviour.ENDPOINT_INDEPENDENT or side.allocation is Allocation.SEQUENTIAL
    )


@dataclass(frozen=True, slots=True)
class Site:
    """An agent's host and, where there are any, the network it is in and the carrier's."""

    host: Host
    home: Home | None = None
    carrier: Home | None = None

    @property
    def outside(self) -> Host:
        """Whose addresses the internet sees."""
        network = self.carrier or self.home
        return self.host if network is None else network.router


def build(
    stack: ExitStack, internet: Internet, place: Place, role: str, rendezvous: Host, link: Link
) -> Site:
    """Makes a host at such a place.

    Args:
        stack: keeps what else runs there.
        link: how it is joined to the internet.
    """
    if place.name in ("public", "firewall"):
        host = internet.public(role, link)
        if place.name == "firewall":
            shield(host)
        return Site(host)
    if place.name == "carrier":
        carrier = internet.carrier(f"{role}-carrier", _CARRIER, link)
        home = internet.home(f"{role}-router", KINDS["port-restricted"], at=carrier)
        return Site(home.host(role), home, carrier)
    has_nat = place.has_ipv4
    home = internet.home(f"{role}-router", place.nat if has_nat else None, link)
    host = home.host(role)
    if place.is_cut_off:
        _cut_off(home.router, rendezvous)
    if place.maps_ports:
        port_mapper.start(stack, home.router)
    return Site(host, home)


def _cut_off(router: Host, rendezvous: Host) -> None:
    router.nft(f"""
        table inet cutoff {{
            chain forward {{
                type filter hook forward priority filter - 1
                meta l4proto udp ip daddr != {rendezvous.ipv4} ip saddr != {rendezvous.ipv4} drop
            }}
        }}
    """)
