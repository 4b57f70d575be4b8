"""Checks of the way to peers: beacons, UDP, NAT, path MTU, buffers of sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.diagnosis.findings import Finding, error, fine, note, warning
from pilotstack.netcheck.behaviour import Mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.netcheck.report import Report

#: Bytes of the kernel's buffer that a daemon asks for, each way.
BUFFER_BYTES: Final = 4 << 20
#: IP packets of links that are not narrow, and the least that IPv6 asks of a link (RFC 8200).
_USUAL, _LEAST = 1500, 1280
_DEPENDENT: Final = {
    Mapping.ADDRESS_DEPENDENT,
    Mapping.ADDRESS_AND_PORT_DEPENDENT,
    Mapping.DEPENDENT,
}


def unresolved(names: Sequence[str]) -> Finding:
    """No beacon has an address."""
    listed = ", ".join(names)
    return error(
        "beacon_unresolved",
        f"No beacon's name can be resolved: {listed}.",
        "check the spelling of --beacon, and this host's name servers",
    )


def no_beacon() -> Finding:
    """None was named."""
    return note(
        "beacon_none",
        "No beacon is used: peers behind NATs cannot reach this node, and none relays.",
        "name one with --beacon",
    )


def beacons(report: Report) -> Finding:
    """Which beacons answer."""
    silent = [row.beacon for row in report.beacons if not row.reflexive]
    if len(silent) == len(report.beacons):
        return error(
            "udp_no_answer",
            f"No beacon answers: {', '.join(silent)}.",
            "let UDP out to that port, and check that the beacon runs",
        )
    if silent:
        return warning(
            "beacon_silent",
            f"{len(silent)} of {len(report.beacons)} beacons do not answer: {', '.join(silent)}.",
            "check that they run, or leave them out of --beacon",
        )
    fastest = min(row.rtt_ms for row in report.beacons)
    return fine("udp_works", f"All beacons answer, the nearest in {fastest:.1f} ms.")


def nat(report: Report) -> Finding:
    """What the NAT allows."""
    kind = next(each.result for each in report.findings if each.name == "mapping")
    if kind in _DEPENDENT:
        return warning(
            "nat_dependent",
            f"The NAT gives destinations different ports ({kind}), so many peers are relayed.",
            "switch on UPnP, NAT-PMP or PCP at the router, or map a port and name it by --endpoint",
        )
    if kind == Mapping.NO_NAT:
        return fine("nat_none", "No NAT is between this host and its beacons.")
    if kind == Mapping.UNKNOWN:
        return note(
            "nat_unknown",
            "One beacon cannot tell how a NAT maps ports.",
            "ask a second one, at another address: pilotctl netcheck --beacon A,B",
        )
    return fine("nat_independent", f"The NAT lets peers punch through ({kind}).")


def mtu(report: Report) -> Finding:
    """The largest packets that arrive."""
    text = next(each.result for each in report.findings if each.name == "mtu")
    sizes = [int(part.split()[0]) for part in text.split(",") if part.split()[0].isdigit()]
    if not sizes:
        return note("mtu_unknown", "The path MTU could not be measured.")
    least = min(sizes)
    if least < _LEAST:
        return warning(
            "mtu_small",
            f"The path takes IP packets of {least} bytes only, so transfers are slower.",
            "look for a tunnel or VPN on the way whose MTU can be raised",
        )
    if least < _USUAL:
        return note("mtu_reduced", f"The path takes IP packets of {least} bytes; segments fit.")
    return fine("mtu_usual", f"The path takes IP packets of {least} bytes.")


def buffers(receive_bytes: int, send_bytes: int) -> Finding:
    """Whether the kernel grants the buffers that a daemon asks for."""
    missing = [
        f"net.core.{name}={BUFFER_BYTES}"
        for name, size in (("rmem_max", receive_bytes), ("wmem_max", send_bytes))
        if size < BUFFER_BYTES
    ]
    if not missing:
        return fine("buffers_large", "The kernel grants UDP sockets the buffers that they ask for.")
    return warning(
        "buffers_small",
        f"The kernel grants UDP sockets {receive_bytes} bytes for receiving and {send_bytes} for "
        f"sending instead of {BUFFER_BYTES}, so bursts are lost.",
        f"sysctl -w {' '.join(missing)}",
    )
