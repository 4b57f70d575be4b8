"""Which local IP stands for whom: rules of the table, without IO."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pilotstack.errors import AlreadyExists, InvalidArgument, NotFound, PilotError, Unavailable
from pilotstack.gateway.mapping import IP, Mapping, parse_ip
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "services.json").read_text())[
    "gateway"
]


def agent(number: int) -> Address:
    return Address(0, number)


def ips(mapping: Mapping, count: int) -> list[str]:
    """The IPs of so many agents; the last may be an error."""
    found = []
    for number in range(count):
        try:
            found.append(str(mapping.map(agent(number)).local_ip))
        except PilotError as error:
            found.append(f"error: {error}")
            break
    return found


def test_ips_are_those_of_existing_gateways() -> None:
    assert ips(Mapping("10.4.0.0/16"), 3) == VECTORS["10.4.0.0/16 first 3"]
    assert ips(Mapping("fd00:4::/64"), 2) == VECTORS["fd00:4::/64"]


def test_only_hosts_are_given_out() -> None:
    """Existing gateways also give out broadcast addresses, and miss hosts of small subnets."""
    assert VECTORS["10.9.8.0/30"][:3] == ["10.9.8.1", "10.9.8.2", "10.9.8.3"]
    exhausted = "error: subnet exhausted"
    for subnet, first, count in (
        ("10.9.8.0/30", "10.9.8.1", 2),
        ("10.9.8.128/29", "10.9.8.129", 6),
        ("10.9.8.0/24", "10.9.8.1", 254),
        ("10.9.8.4/31", "10.9.8.4", 2),
        ("10.9.8.4/32", "10.9.8.4", 1),
        ("fd00:4::/126", "fd00:4::1", 3),
    ):
        found = ips(Mapping(subnet), 300)
        assert (found[0], len(found)) == (first, count + 1), subnet
        assert found[-1].startswith(exhausted)


def test_errors_say_what_those_of_existing_gateways_say() -> None:
    mapping = Mapping("10.4.0.0/16")
    mapping.map(agent(1), parse_ip("10.4.0.5"))
    cases: dict[str, Callable[[], object]] = {
        "ip_in_use": lambda: mapping.map(agent(2), parse_ip("10.4.0.5")),
        "out_of_subnet": lambda: mapping.map(agent(2), parse_ip("192.168.1.1")),
        "unmap_missing": lambda: mapping.unmap(parse_ip("10.4.0.9")),
        "bad_cidr": lambda: Mapping("x"),
    }
    assert cases.keys() == VECTORS["errors"].keys()
    for name, action in cases.items():
        with pytest.raises(PilotError) as raised:
            action()
        assert str(raised.value) == VECTORS["errors"][name]


@pytest.mark.parametrize("text", ["10.4.0.0", "10.4.0.0/33", "/16", "", "10.4/16", "\0", "x" * 999])
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Mapping(text)


def test_an_agent_keeps_its_ip() -> None:
    mapping = Mapping()
    first = mapping.map(agent(1), name="agent-a")
    assert mapping.map(agent(1)) == first
    assert mapping.map(agent(1), first.local_ip) == first
    with pytest.raises(AlreadyExists, match=r"is mapped to 10\.4\.0\.1"):
        mapping.map(agent(1), parse_ip("10.4.0.2"))
    assert mapping.unmap(agent(1)) == first
    assert str(mapping.map(agent(2)).local_ip) == "10.4.0.2"
    assert str(mapping.map(agent(1)).local_ip) == "10.4.0.1"


def test_an_ip_that_was_given_up_goes_to_another_agent_last() -> None:
    mapping = Mapping("10.9.8.0/29")
    for number in range(1, 5):
        mapping.map(agent(number))
    mapping.unmap(agent(2))
    mapping.unmap(agent(1))
    # Two that nobody had, then the one that was free the longest.
    given_out = [str(mapping.map(agent(number)).local_ip) for number in range(10, 14)]
    assert given_out == ["10.9.8.5", "10.9.8.6", "10.9.8.2", "10.9.8.1"]
    with pytest.raises(Unavailable):
        mapping.map(agent(20))


def test_mappings_are_bounded() -> None:
    mapping = Mapping(limit=2)
    assert ips(mapping, 4)[2].startswith("error: 2 agents are mapped")


class Table(RuleBasedStateMachine):
    """Any sequence of calls leaves a table that is one to one."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Mapping("10.9.8.0/28")
        self.last: dict[Address, IP] = {}

    @rule(number=st.integers(0, 20), last=st.none() | st.integers(0, 17))
    def map(self, number: int, last: int | None) -> None:
        ip = None if last is None else ipaddress.ip_address("10.9.8.0") + last
        known = self.mapping.of_address(agent(number))
        try:
            mapped = self.mapping.map(agent(number), ip)
        except (AlreadyExists, InvalidArgument):
            assert ip is not None
        except Unavailable:
            assert len(self.mapping) == 14
        else:
            assert known in (None, mapped)
            assert ip in (None, mapped.local_ip)
            self.last[agent(number)] = mapped.local_ip

    @rule(number=st.integers(0, 20))
    def unmap(self, number: int) -> None:
        known = self.mapping.of_address(agent(number))
        try:
            assert self.mapping.unmap(agent(number)) == known
        except NotFound:
            assert known is None

    @invariant()
    def is_one_to_one(self) -> None:
        rows = list(self.mapping)
        assert len({row.local_ip for row in rows}) == len({row.address for row in rows})
        assert len(rows) == len(self.mapping)
        for row in rows:
            assert self.mapping.of_ip(row.local_ip) == row
            assert self.mapping.of_address(row.address) == row
            assert self.last[row.address] == row.local_ip
            assert row.local_ip in ipaddress.ip_network("10.9.8.0/28")
        assert not {row.local_ip for row in rows} & {r.local_ip for r in self.mapping.retired()}


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=50, stateful_step_count=40)


@given(st.text(max_size=30))
def test_no_text_makes_an_ip_or_subnet_fail_otherwise(text: str) -> None:
    for make in (Mapping, parse_ip):
        with contextlib.suppress(InvalidArgument):
            make(text)
