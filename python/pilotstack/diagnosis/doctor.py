"""All checks of one host, in the order in which one would make them by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilotstack.diagnosis import findings, host, network, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pilotstack.diagnosis.findings import Finding, Report
    from pilotstack.diagnosis.host import Place, Running, Socket
    from pilotstack.diagnosis.registry import Contact
    from pilotstack.netcheck.report import Report as Netcheck


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What was found on this host."""

    uid: int
    version: str
    running: Running
    #: Limit of open files, and how many the daemon has opened.
    descriptors: tuple[int, int]
    #: Bytes of the buffers that the kernel grants: receiving, sending.
    buffers: tuple[int, int]
    #: Folders, and the bytes that are free there.
    disks: tuple[tuple[Path, int], ...]
    places: tuple[Place, ...]
    sockets: tuple[Socket, ...]
    identity: Path
    #: Why the identity cannot be used; empty if it can, or if there is none yet.
    identity_problem: str
    pid_file: Path
    has_pid_file: bool
    #: The home survives a restart of the host.
    is_home_lasting: bool = True


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What was found out about servers and the way to them."""

    #: Unix seconds.
    now: float
    registries: tuple[Contact, ...]
    #: Names of beacons; without a report, none has an address.
    beacons: tuple[str, ...]
    report: Netcheck | None


def examine(here: HostFacts, there: NetworkFacts) -> Report:
    """What all checks find."""
    return findings.report([*_of_network(there), *_of_host(here)])


def _of_network(facts: NetworkFacts) -> Iterator[Finding]:
    for contact in facts.registries:
        yield registry.reachable(contact)
        if contact.failure is None:
            yield registry.certificate(contact, facts.now)
            yield registry.clock(contact)
    if not facts.beacons:
        yield network.no_beacon()
    elif facts.report is None:
        yield network.unresolved(facts.beacons)
    else:
        yield network.beacons(facts.report)
        if any(row.reflexive for row in facts.report.beacons):
            yield network.nat(facts.report)
            yield network.mtu(facts.report)


def _of_host(facts: HostFacts) -> Iterator[Finding]:
    yield host.daemon(facts.running, facts.version)
    yield network.buffers(*facts.buffers)
    yield host.descriptors(*facts.descriptors)
    for path, free in facts.disks:
        yield host.disk(path, free)
    if not facts.is_home_lasting:
        yield findings.warning(
            "home_temporary",
            "No home can be written, so the identity is lost with the next start of the host.",
            "name a lasting folder with PILOT_HOME",
        )
    unusual = [host.permissions(place, facts.uid) for place in facts.places]
    if not any(unusual):
        yield findings.fine("permissions_right", "Identity and state are this user's alone.")
    is_locked = facts.running.pid is not None
    unusual += [
        host.identity(facts.identity, facts.identity_problem),
        host.pid_file(facts.pid_file, is_there=facts.has_pid_file, is_locked=is_locked),
        *(host.socket(place, facts.uid) for place in facts.sockets),
    ]
    yield from filter(None, unusual)
