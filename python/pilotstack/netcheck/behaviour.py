"""What observations say about a NAT, in the terms of RFC 4787. Pure; what cannot be told from the
observations is :data:`UNKNOWN`, never a guess."""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pilotstack.netcheck.messages import Endpoint

#: Largest step between ports that are given out one after the other.
_STEP: Final = 8
#: Ports that show a pattern.
_PATTERN: Final = 3


class Seen(NamedTuple):
    """How a beacon sees a datagram of one of our sockets."""

    local: Endpoint
    beacon: Endpoint
    reflexive: Endpoint


class Mapping(StrEnum):
    """RFC 4787, section 4.1: which mapping a second destination gets."""

    NO_NAT = "no_nat"
    ENDPOINT_INDEPENDENT = "endpoint_independent"
    #: Not by port; two beacons at different addresses would tell whether by address.
    NOT_BY_PORT = "not_port_dependent"
    ADDRESS_DEPENDENT = "address_dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address_and_port_dependent"
    #: By address or by port; two ports at one address would tell which.
    DEPENDENT = "destination_dependent"
    UNKNOWN = "unknown"


class Allocation(StrEnum):
    """RFC 4787, section 4.2: which port a mapping gets."""

    PRESERVING = "preserving"
    OFFSET = "constant_offset"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    UNKNOWN = "unknown"


class Filtering(StrEnum):
    """RFC 4787, section 5: whose datagrams a mapping lets in."""

    ENDPOINT_INDEPENDENT = "endpoint_independent"
    ADDRESS_DEPENDENT = "address_dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address_and_port_dependent"
    UNKNOWN = "unknown"


def mapping_of(rows: Sequence[Seen], own: Collection[str]) -> Mapping:
    """The mapping behaviour for one socket.

    Args:
        rows: how each beacon sees it.
        own: addresses of this host.
    """
    if rows and all(
        row.reflexive.host in own and row.reflexive.port == row.local.port for row in rows
    ):
        return Mapping.NO_NAT
    if len({row.beacon for row in rows}) < len(("one", "another")):
        return Mapping.UNKNOWN
    has_hosts = len({row.beacon.host for row in rows}) > 1
    if len({row.reflexive for row in rows}) == 1:
        return Mapping.ENDPOINT_INDEPENDENT if has_hosts else Mapping.NOT_BY_PORT
    by_host: dict[str, list[Seen]] = {}
    for row in rows:
        by_host.setdefault(row.beacon.host, []).append(row)
    if any(len({row.reflexive for row in of_host}) > 1 for of_host in by_host.values()):
        return Mapping.ADDRESS_AND_PORT_DEPENDENT
    has_ports = any(len({row.beacon.port for row in of_host}) > 1 for of_host in by_host.values())
    return Mapping.ADDRESS_DEPENDENT if has_ports else Mapping.DEPENDENT


def allocation_of(pairs: Iterable[tuple[int, int]]) -> Allocation:
    """How ports are chosen.

    Args:
        pairs: local and reflexive port of sockets, in the order in which they sent.
    """
    listed = list(pairs)
    if not listed:
        return Allocation.UNKNOWN
    if all(local == seen for local, seen in listed):
        return Allocation.PRESERVING
    if len(listed) < _PATTERN:
        return Allocation.UNKNOWN
    if len({seen - local for local, seen in listed}) == 1:
        return Allocation.OFFSET
    steps = [after - before for (_, before), (_, after) in itertools.pairwise(listed)]
    if all(0 < step <= _STEP for step in steps) or all(-_STEP <= step < 0 for step in steps):
        return Allocation.SEQUENTIAL
    return Allocation.RANDOM


def filtering_of(arrivals: Sequence[bool]) -> Filtering:
    """Whose datagrams are let in.

    Args:
        arrivals: whether a datagram of our second socket, sent to the reflexive endpoint of the
            first, arrived: before the first had sent anything there, after it had sent to another
            port of that address, and after it had sent to the second's reflexive endpoint. Without
            any, the NAT does not hairpin, and this tells nothing.
    """
    kinds = (
        Filtering.ENDPOINT_INDEPENDENT,
        Filtering.ADDRESS_DEPENDENT,
        Filtering.ADDRESS_AND_PORT_DEPENDENT,
    )
    for kind, has_arrived in zip(kinds, arrivals, strict=False):
        if has_arrived:
            return kind
    return Filtering.UNKNOWN
