"""What the observations mean for a node, in one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.netcheck.behaviour import Allocation, Filtering, Mapping

if TYPE_CHECKING:
    from collections.abc import Mapping as Table

    from pilotstack.netcheck.behaviour import Seen


class Finding(msgspec.Struct, frozen=True):
    """One result. ``result`` is a word for programs, ``meaning`` a sentence for people."""

    name: str
    result: str
    meaning: str


class BeaconRow(msgspec.Struct, frozen=True):
    """A beacon; ``rtt_ms`` is 0 and ``reflexive`` empty if it did not answer."""

    beacon: str
    rtt_ms: float = 0.0
    #: Our endpoint as it sees it.
    reflexive: str = ""


class Report(msgspec.Struct, frozen=True):
    """Everything that was found."""

    findings: tuple[Finding, ...]
    beacons: tuple[BeaconRow, ...]


MAPPING: Final = {
    Mapping.NO_NAT: "Beacons see this host's own address, so no NAT is in between.",
    Mapping.ENDPOINT_INDEPENDENT: "Every destination sees the same port, so hole punching works "
    "unless the peer's NAT gives each destination another one and filters, too.",
    Mapping.NOT_BY_PORT: "Two ports of one beacon see the same port; a beacon at another address "
    "is needed to tell whether that one would.",
    Mapping.ADDRESS_DEPENDENT: "Each address sees another port, so a direct path needs a peer "
    "without such a NAT, or ports that can be predicted; otherwise the relay carries the traffic.",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "Each destination sees another port (a symmetric NAT), so "
    "a direct path needs a peer without one, or ports that can be predicted; otherwise the relay "
    "carries the traffic.",
    Mapping.DEPENDENT: "Destinations see different ports; a second port at one beacon's address is "
    "needed to tell whether the address or the port decides. Direct paths are rare either way.",
    Mapping.UNKNOWN: "Fewer than two beacons answered; another address or port is needed to "
    "compare what they see.",
}
ALLOCATION: Final = {
    Allocation.PRESERVING: "The NAT keeps local port numbers, so its ports can be predicted.",
    Allocation.OFFSET: "The NAT shifts port numbers by a constant, so they can be predicted.",
    Allocation.SEQUENTIAL: "The NAT gives out ports one after the other, so the next one can be "
    "predicted while little else uses the NAT.",
    Allocation.RANDOM: "The NAT's ports follow no pattern, so they cannot be predicted.",
    Allocation.UNKNOWN: "Too few sockets got an answer to see a pattern.",
}
FILTERING: Final = {
    Filtering.ENDPOINT_INDEPENDENT: "Once a port is open, everybody can send to it, so peers reach "
    "this node without punching. Measured from inside, by sending to our own public endpoint.",
    Filtering.ADDRESS_DEPENDENT: "Only addresses that this node has sent to can send to it, so "
    "both sides must punch. Measured from inside, by sending to our own public endpoint.",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "Only endpoints that this node has sent to can send to "
    "it, so both sides must punch. Measured from inside, by sending to our own public endpoint.",
    Filtering.UNKNOWN: "The NAT sends nothing back to its own public address (it does not "
    "hairpin), and a beacon answers from the address that was asked, so this cannot be told.",
}
NOT_FILTERED: Final = (
    "Without a NAT there is only a firewall to filter, and from inside nobody can tell whether it "
    "lets in datagrams from strangers."
)


def udp(*, works: bool) -> Finding:
    """Whether any beacon answers."""
    if works:
        return Finding("udp", "works", "UDP to beacons works, so tunnels can be made.")
    return Finding(
        "udp",
        "no_answer",
        "No beacon answered: UDP is blocked, or the beacons named are not running.",
    )


def address(version: int, rows: list[Seen], own: tuple[str, ...]) -> Finding:
    """Where beacons see this host in one family.

    Args:
        version: of IP.
        rows: how they see it.
        own: its addresses in that family that others might reach.
    """
    name = f"ipv{version}"
    if not rows and not own:
        text = f"This host has no IPv{version} address that others could reach."
        return Finding(name, "none", text)
    if not rows:
        text = f"This host has an IPv{version} address, but no beacon answered there."
        return Finding(name, "no_answer", text)
    seen = ", ".join(dict.fromkeys(str(row.reflexive) for row in rows))
    hosts = {row.reflexive.host for row in rows}
    if len(hosts) > 1:
        text = "Destinations see different addresses, so peers may look in the wrong place."
    elif hosts <= set(own):
        text = "Beacons see this host's own address: peers can send to it directly."
    else:
        text = "Beacons see another address than this host's own: a translator is in between."
    return Finding(name, seen, text)


def mapping(kind: Mapping) -> Finding:
    """The mapping behaviour."""
    return Finding("mapping", kind, MAPPING[kind])


def allocation(kind: Allocation) -> Finding:
    """How ports are chosen."""
    return Finding("ports", kind, ALLOCATION[kind])


def filtering(kind: Filtering, *, has_nat: bool) -> Finding:
    """Whose datagrams are let in."""
    return Finding("filtering", kind, FILTERING[kind] if has_nat else NOT_FILTERED)


def hairpinning(kind: Filtering) -> Finding:
    """Whether peers behind the same NAT reach each other by their public endpoints."""
    if kind is Filtering.UNKNOWN:
        text = "Peers behind the same NAT need each other's local addresses; they exchange those."
        return Finding("hairpinning", "no", text)
    text = "Peers behind the same NAT reach each other by their public endpoints, too."
    return Finding("hairpinning", "yes", text)


def mtu(sizes: Table[int, int]) -> Finding:
    """The path MTU towards a beacon.

    Args:
        sizes: bytes by version of IP.
    """
    known = {version: size for version, size in sizes.items() if size}
    if not known:
        return Finding("mtu", "unknown", "No beacon answered, so no path was measured.")
    result = ", ".join(f"{size} (IPv{version})" for version, size in sorted(known.items()))
    if min(known.values()) >= _USUAL:
        text = "The path takes IP packets of the usual size."
    else:
        text = "The path takes smaller IP packets than usual; segments are cut to fit."
    return Finding("mtu", result, text)


_USUAL: Final = 1500


def relays(rows: tuple[BeaconRow, ...]) -> Finding:
    """Round trips to the beacons."""
    answered = [row for row in rows if row.reflexive]
    timed = [row.rtt_ms for row in answered if row.rtt_ms]
    if not timed:
        return Finding("relays", "none", "No beacon can relay for this node now.")
    result = f"{len(answered)} of {len(rows)}, {min(timed):.1f} ms"
    text = "A relayed path takes as long as the ways of both peers to the beacon together."
    return Finding("relays", result, text)


def port_mapping(protocol: str, external: str, why: str) -> Finding:
    """Whether the router maps the daemon's port on request.

    Args:
        protocol: that it speaks; empty if it maps nothing.
        external: the mapped endpoint.
        why: why it maps nothing.
    """
    if protocol:
        text = f"The router maps the daemon's port by {protocol}: peers need no punching."
        return Finding("port_mapping", external, text)
    return Finding("port_mapping", "none", f"No port is mapped for the daemon: {why}.")
