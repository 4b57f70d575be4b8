"""What observations say about a NAT: tables, and whole checks behind NATs made of a few lines."""

from __future__ import annotations

import itertools
import random
import struct
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack import _interfaces, _resolving
from pilotstack.netcheck import check as checks
from pilotstack.netcheck import mtu, report
from pilotstack.netcheck.behaviour import (
    Allocation,
    Filtering,
    Mapping,
    Seen,
    allocation_of,
    filtering_of,
    mapping_of,
)
from pilotstack.netcheck.messages import DISCOVER_LEN, Endpoint, discover, parse_reply
from pilotstack.netcheck.sockets import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pilotstack.netcheck.report import Report

LOCAL = Endpoint("0.0.0.0", 4000)
OWN = "192.168.1.5"
PUBLIC = "203.0.113.1"
A1, A2, B1 = Endpoint("198.51.100.1", 1), Endpoint("198.51.100.1", 2), Endpoint("198.51.100.2", 1)


def seen(*rows: tuple[Endpoint, int], host: str = PUBLIC) -> list[Seen]:
    return [Seen(LOCAL, beacon, Endpoint(host, port)) for beacon, port in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Mapping.UNKNOWN),
        ([(A1, 7)], Mapping.UNKNOWN),
        ([(A1, 7), (A2, 7)], Mapping.NOT_BY_PORT),
        ([(A1, 7), (B1, 7)], Mapping.ENDPOINT_INDEPENDENT),
        ([(A1, 7), (A2, 7), (B1, 7)], Mapping.ENDPOINT_INDEPENDENT),
        ([(A1, 7), (B1, 8)], Mapping.DEPENDENT),
        ([(A1, 7), (A2, 7), (B1, 8)], Mapping.ADDRESS_DEPENDENT),
        ([(A1, 7), (A2, 8)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
        ([(A1, 7), (A2, 8), (B1, 9)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_mapping(rows: list[tuple[Endpoint, int]], expected: Mapping) -> None:
    assert mapping_of(seen(*rows), [OWN]) is expected


def test_our_own_address_and_port_mean_no_nat() -> None:
    assert mapping_of(seen((A1, 4000), host=OWN), [OWN]) is Mapping.NO_NAT
    assert mapping_of(seen((A1, 4001), (B1, 4001), host=OWN), [OWN]) is not Mapping.NO_NAT


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], Allocation.UNKNOWN),
        ([(1, 1)], Allocation.PRESERVING),
        ([(1, 1), (5, 5), (9, 9)], Allocation.PRESERVING),
        ([(1, 9)], Allocation.UNKNOWN),
        ([(1, 9), (2, 10), (5, 13)], Allocation.OFFSET),
        ([(1, 90), (7, 91), (3, 93)], Allocation.SEQUENTIAL),
        ([(1, 93), (7, 92), (3, 91)], Allocation.SEQUENTIAL),
        ([(1, 90), (7, 91), (3, 5000)], Allocation.RANDOM),
    ],
)
def test_allocation(pairs: list[tuple[int, int]], expected: Allocation) -> None:
    assert allocation_of(pairs) is expected


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([True], Filtering.ENDPOINT_INDEPENDENT),
        ([False, True], Filtering.ADDRESS_DEPENDENT),
        ([False, False, True], Filtering.ADDRESS_AND_PORT_DEPENDENT),
        ([False, False, False], Filtering.UNKNOWN),
        ([], Filtering.UNKNOWN),
    ],
)
def test_filtering(arrivals: list[bool], expected: Filtering) -> None:
    assert filtering_of(arrivals) is expected


def test_every_result_has_a_sentence() -> None:
    assert set(report.MAPPING) == set(Mapping)
    assert set(report.ALLOCATION) == set(Allocation)
    assert set(report.FILTERING) == set(Filtering)


# Messages


def test_a_question_is_never_shorter_than_its_answer() -> None:
    reply = 1 + 1 + 16 + 2 + 12
    assert len(discover()) == len(discover(5)) == DISCOVER_LEN >= reply
    assert len(discover(1472)) == 1472
    assert discover()[:5] == b"\1\0\0\0\0"


def test_replies_of_both_families() -> None:
    v6 = bytes.fromhex("20010db8000000000000000000000001")
    port = struct.pack("!H", 4000)
    assert parse_reply(b"\2\4" + bytes([203, 0, 113, 1]) + port) == Endpoint(PUBLIC, 4000)
    assert parse_reply(b"\2\x10" + v6 + port + b"PILV12345678") == Endpoint("2001:db8::1", 4000)
    mapped = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 1])
    assert parse_reply(b"\2\x10" + mapped + port) == Endpoint(PUBLIC, 4000)
    for wrong in (b"", b"\2", b"\2\4\1\2\3\4\0", b"\2\5" + bytes(20), b"\2\4" + bytes(6), b"\1\4"):
        assert parse_reply(wrong) is None


@given(st.binary(max_size=40))
def test_no_datagram_makes_the_parser_fail(data: bytes) -> None:
    for each in (data, b"\2" + data, b"\2\4" + data, b"\2\x10" + data):
        found = parse_reply(each)
        assert found is None or 0 < found.port < 1 << 16


# Path MTU


@pytest.mark.anyio
@pytest.mark.parametrize("size", [576, 600, 900, 1124, 1280, 1400, 1432, 1492, 1500, 1501, 4000])
@pytest.mark.parametrize("link", [1500, 9000, 65_536])
async def test_the_mtu_is_found_to_a_few_bytes(size: int, link: int) -> None:
    asked = []

    async def arrives(payload: int) -> bool:
        await anyio.lowlevel.checkpoint()
        asked.append(payload)
        return payload + mtu.HEADERS[4] <= size

    found = await mtu.search(arrives, link, 4)
    assert min(size, link) - 4 <= found <= size
    assert len(asked) <= 18


@pytest.mark.anyio
async def test_nothing_arrives_on_a_path_that_is_too_narrow() -> None:
    async def arrives(payload: int) -> bool:
        await anyio.lowlevel.checkpoint()
        return payload < 100

    assert await mtu.search(arrives, 1500, 4) == 0


# Whole checks


class Nat:
    """A NAT whose behaviour is chosen.

    Args:
        mapping: what a mapping depends on.
        filtering: whose datagrams are let in.
        is_hairpinning: datagrams to its own address are sent back.
    """

    def __init__(
        self, mapping: Mapping, filtering: Filtering, *, is_hairpinning: bool = True
    ) -> None:
        self.mapping, self.filtering, self.is_hairpinning = mapping, filtering, is_hairpinning
        self.random = random.Random(1)
        self.mappings: dict[object, Endpoint] = {}
        self.owners: dict[Endpoint, FakeAsking] = {}
        self.sent: dict[Endpoint, set[Endpoint]] = {}

    def out(self, sender: FakeAsking, to: Endpoint) -> Endpoint:
        """Sends, and returns the source that the target sees."""
        if self.mapping is Mapping.NO_NAT:
            return Endpoint(OWN, sender.local.port)
        part = {
            Mapping.ENDPOINT_INDEPENDENT: None,
            Mapping.ADDRESS_DEPENDENT: to.host,
            Mapping.ADDRESS_AND_PORT_DEPENDENT: to,
        }[self.mapping]
        key = (sender.local.port, part)
        if key not in self.mappings:
            self.mappings[key] = Endpoint(PUBLIC, self.random.randrange(1024, 65_536))
        external = self.mappings[key]
        self.owners[external] = sender
        self.sent.setdefault(external, set()).add(to)
        return external

    def lets_in(self, source: Endpoint, to: Endpoint) -> bool:
        """Whether a datagram to one of its endpoints passes."""
        sent = self.sent.get(to, set())
        match self.filtering:
            case Filtering.ENDPOINT_INDEPENDENT:
                return bool(sent)
            case Filtering.ADDRESS_DEPENDENT:
                return source.host in {each.host for each in sent}
            case _:
                return source in sent


class FakeAsking:
    """A socket behind the NAT of the test."""

    nat: Nat
    beacons: Sequence[Endpoint]
    ports: Iterator[int]
    versions: Sequence[int] = (4,)

    def __init__(self, family: int) -> None:
        version = {number: version for version, number in checks._FAMILIES.items()}[family]
        if version not in self.versions:
            raise OSError("no such family")
        self.local = Endpoint("0.0.0.0", next(self.ports))

    def __enter__(self) -> FakeAsking:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def ask(
        self, beacons: Iterable[Endpoint], length: int = 0, pauses: object = None
    ) -> dict[Endpoint, Reply]:
        await anyio.lowlevel.checkpoint()
        del pauses
        return {
            beacon: Reply(self.nat.out(self, beacon), 0.02)
            for beacon in beacons
            if beacon in self.beacons and length + mtu.HEADERS[4] <= 1400
        }

    def open_towards(self, endpoint: Endpoint) -> None:
        self.nat.out(self, endpoint)

    async def reaches(self, other: FakeAsking, endpoint: Endpoint) -> bool:
        await anyio.lowlevel.checkpoint()
        source = self.nat.out(self, endpoint)
        return (
            self.nat.is_hairpinning
            and self.nat.owners.get(endpoint) is other
            and self.nat.lets_in(source, endpoint)
        )


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "Asking", FakeAsking)
    monkeypatch.setattr(_interfaces, "host_addresses", lambda: (OWN,))
    monkeypatch.setattr(_interfaces, "mtu_towards", lambda _: 1500)
    sources = {A1.host: OWN, B1.host: OWN}
    monkeypatch.setattr(_resolving, "source_towards", sources.get)
    FakeAsking.ports = itertools.count(40_000, 7)
    FakeAsking.beacons = (A1, A2, B1)
    FakeAsking.versions = (4,)


def results(found: Report) -> dict[str, str]:
    assert all(finding.meaning.endswith(".") for finding in found.findings)
    return {finding.name: str(finding.result) for finding in found.findings}


KINDS = (Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "mapping", [*KINDS, Mapping.ADDRESS_AND_PORT_DEPENDENT], ids=lambda kind: kind.value
)
@pytest.mark.parametrize(
    "filtering",
    [kind for kind in Filtering if kind is not Filtering.UNKNOWN],
    ids=lambda kind: kind.value,
)
@pytest.mark.parametrize("is_hairpinning", [True, False])
async def test_a_nat_is_told_as_it_is_or_not_at_all(
    mapping: Mapping, filtering: Filtering, is_hairpinning: bool
) -> None:
    FakeAsking.nat = Nat(mapping, filtering, is_hairpinning=is_hairpinning)
    found = results(await checks.check([A1, A2, B1]))
    assert (found["udp"], found["mapping"], found["ports"]) == ("works", mapping, "random")
    assert found["filtering"] in (filtering, Filtering.UNKNOWN)
    if mapping is Mapping.ENDPOINT_INDEPENDENT and is_hairpinning:
        assert found["filtering"] == filtering
    assert is_hairpinning or found["filtering"] == Filtering.UNKNOWN
    assert found["mtu"] == "1400 (IPv4)"
    assert found["relays"] == "3 of 3, 20.0 ms"
    assert (found["ipv4"].startswith(PUBLIC), found["ipv6"]) == (True, "none")


@pytest.mark.anyio
async def test_a_host_without_a_nat() -> None:
    FakeAsking.nat = Nat(Mapping.NO_NAT, Filtering.ENDPOINT_INDEPENDENT)
    found = results(await checks.check([A1, B1]))
    assert found["mapping"] == "no_nat"
    assert found["filtering"] == "unknown"
    assert {"ports", "hairpinning"}.isdisjoint(found)
    assert found["ipv4"].startswith(f"{OWN}:")


@pytest.mark.anyio
async def test_one_beacon_cannot_tell_and_it_says_so() -> None:
    FakeAsking.nat = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
    FakeAsking.beacons = (A1,)
    found = await checks.check([A1, B1])
    assert results(found)["mapping"] == "unknown"
    (text,) = (finding.meaning for finding in found.findings if finding.name == "mapping")
    assert "another address or port is needed" in text
    assert [(row.beacon, bool(row.reflexive)) for row in found.beacons] == [
        ("198.51.100.1:1", True),
        ("198.51.100.2:1", False),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("versions", [(4,), ()])
async def test_without_any_answer_only_that_is_said(versions: tuple[int, ...]) -> None:
    FakeAsking.nat = Nat(Mapping.NO_NAT, Filtering.UNKNOWN)
    FakeAsking.beacons = ()
    FakeAsking.versions = versions
    found = results(await checks.check([A1]))
    assert (found["udp"], found["ipv4"], found["mtu"]) == ("no_answer", "no_answer", "unknown")
    assert (found["relays"], found["mapping"]) == ("none", "unknown")
