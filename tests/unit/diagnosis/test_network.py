"""What the way to peers lacks, from reports as netcheck makes them."""

from __future__ import annotations

import pytest

from pilotstack.diagnosis import network, probes
from pilotstack.diagnosis.findings import Finding, Severity
from pilotstack.netcheck import report
from pilotstack.netcheck.behaviour import Mapping
from pilotstack.netcheck.report import BeaconRow, Report

A, B = BeaconRow("198.51.100.1:9001", 3.0, "203.0.113.1:5"), BeaconRow("198.51.100.2:9001")


def of(*beacons: BeaconRow, mapping: Mapping = Mapping.NO_NAT, mtu: int = 1500) -> Report:
    return Report((report.mapping(mapping), report.mtu({4: mtu})), beacons)


def code(found: Finding) -> str:
    assert found.text.endswith(".")
    assert found.fix or found.severity in (Severity.OK, Severity.NOTE)
    return found.code


def test_beacons() -> None:
    assert code(network.no_beacon()) == "beacon_none"
    assert code(network.unresolved(["nowhere.invalid:1"])) == "beacon_unresolved"
    assert code(network.beacons(of(A))) == "udp_works"
    found = network.beacons(of(A, B))
    assert (code(found), found.severity) == ("beacon_silent", Severity.WARNING)
    assert "1 of 2" in found.text
    found = network.beacons(of(B, B))
    assert (code(found), found.severity) == ("udp_no_answer", Severity.ERROR)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (Mapping.NO_NAT, "nat_none"),
        (Mapping.UNKNOWN, "nat_unknown"),
        (Mapping.ENDPOINT_INDEPENDENT, "nat_independent"),
        (Mapping.NOT_BY_PORT, "nat_independent"),
        (Mapping.ADDRESS_DEPENDENT, "nat_dependent"),
        (Mapping.ADDRESS_AND_PORT_DEPENDENT, "nat_dependent"),
        (Mapping.DEPENDENT, "nat_dependent"),
    ],
)
def test_nats(mapping: Mapping, expected: str) -> None:
    assert code(network.nat(of(A, mapping=mapping))) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "mtu_unknown"), (1124, "mtu_small"), (1420, "mtu_reduced"), (1500, "mtu_usual")],
)
def test_path_mtu(size: int, expected: str) -> None:
    assert code(network.mtu(of(A, mtu=size))) == expected


def test_buffers_and_the_line_that_raises_them() -> None:
    want = network.BUFFER_BYTES
    assert code(network.buffers(want, want)) == "buffers_large"
    found = network.buffers(212_992, want)
    assert code(found) == "buffers_small"
    assert found.fix == "sysctl -w net.core.rmem_max=4194304"
    found = network.buffers(212_992, 212_992)
    assert found.fix == "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304"


def test_what_the_kernel_grants_is_measured() -> None:
    receive, send = probes.buffers()
    assert 0 < receive <= network.BUFFER_BYTES
    assert 0 < send <= network.BUFFER_BYTES
