"""Which of this host's addresses others may reach, and what the kernel's answers mean."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack import _interfaces, _netlink, _resolving
from pilotstack._interfaces import host_addresses, is_reachable, select
from pilotstack._netlink import Assigned, Link

RUNNING = _netlink.UP | _netlink.RUNNING


def link(index: int, kind: str = "", *, flags: int = RUNNING, master: int = 0) -> Link:
    return Link(index, f"if{index}", kind, flags, 1500, master)


def on(index: int, address: str, prefix: int = 24, flags: int = 0) -> Assigned:
    return Assigned(index, address, prefix, flags)


def usable(links: list[Link], assigned: list[Assigned], *routed: str) -> tuple[str, ...]:
    return select(links, assigned, routed)


def test_loopback_and_link_local_addresses_are_no_candidates() -> None:
    rows = [
        on(1, "127.0.0.1", 8),
        on(1, "::1", 128),
        on(2, "169.254.7.7"),
        on(2, "fe80::1", 64),
        on(2, "192.168.1.5"),
        on(2, "2001:db8::5", 64),
    ]
    assert usable([link(1), link(2)], rows) == ("192.168.1.5", "2001:db8::5")


def test_the_addresses_of_default_routes_come_first_then_others_of_their_interfaces() -> None:
    links = [link(1), link(2), link(3)]
    rows = [on(1, "10.1.0.1"), on(2, "10.2.0.1"), on(2, "10.2.0.2"), on(3, "2001:db8::3", 64)]
    found = usable(links, rows, "10.2.0.2", "2001:db8::3")
    assert found == ("10.2.0.2", "2001:db8::3", "10.2.0.1", "10.1.0.1")


@pytest.mark.parametrize("flags", [0, _netlink.UP, _netlink.RUNNING])
def test_an_interface_that_is_down_or_has_no_carrier_is_left_out(flags: int) -> None:
    assert usable([link(1, flags=flags)], [on(1, "10.0.0.1")]) == ()


def test_a_bridge_to_containers_only_is_left_out() -> None:
    rows = [on(1, "192.168.1.5"), on(2, "172.17.0.1")]
    links = [link(1), link(2, "bridge"), link(3, "veth", master=2)]
    assert usable(links, rows, "192.168.1.5") == ("192.168.1.5",)
    # Without ports, too; and a container's own end is a veth that is no port.
    assert usable(links[:2], rows, "192.168.1.5") == ("192.168.1.5",)
    assert usable([link(1, "veth")], rows[:1]) == ("192.168.1.5",)


def test_a_bridge_with_a_card_or_with_the_default_route_stays() -> None:
    rows = [on(2, "192.168.1.5")]
    assert usable([link(1, master=2), link(2, "bridge")], rows) == ("192.168.1.5",)
    assert usable([link(2, "bridge")], rows, "192.168.1.5") == ("192.168.1.5",)


@pytest.mark.parametrize("flag", [_netlink.TENTATIVE, _netlink.DEPRECATED, _netlink.FAILED])
def test_ipv6_addresses_that_must_not_be_used_are_left_out(flag: int) -> None:
    rows = [on(1, "2001:db8::1", 64, flag), on(1, "10.0.0.1", flags=flag)]
    assert usable([link(1)], rows) == ("10.0.0.1",)


def test_a_temporary_address_stands_for_the_lasting_one_of_its_network() -> None:
    rows = [
        on(1, "2001:db8:1::1", 64),
        on(1, "2001:db8:1::7", 64, _netlink.TEMPORARY),
        on(1, "2001:db8:2::1", 64),
    ]
    assert usable([link(1)], rows) == ("2001:db8:1::7", "2001:db8:2::1")


def test_no_more_addresses_than_the_limit() -> None:
    rows = [on(1, f"10.0.0.{n}") for n in range(1, 50)]
    assert len(usable([link(1)], rows)) == _interfaces.MAX_ADDRESSES


def test_without_rtnetlink_the_sources_of_routes_are_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> object:
        raise OSError("no rtnetlink")

    monkeypatch.setattr(_netlink, "dump", refuse)
    sources = {"192.0.2.1": "10.0.0.2", "2001:db8::1": "fe80::2", "10.9.9.9": "10.9.0.2"}
    monkeypatch.setattr(_resolving, "source_towards", sources.get)
    assert host_addresses(targets=["10.9.9.9"]) == ("10.0.0.2", "10.9.0.2")


@pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's")
def test_the_kernel_lists_the_loopback_interface() -> None:
    links, assigned = _netlink.dump()
    (loopback,) = (each for each in links if each.name == "lo")
    assert loopback.mtu > 0
    assert on(loopback.index, "127.0.0.1", 8).address in {row.address for row in assigned}


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def attribute(kind: int, data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind) + padded


def test_attributes_of_a_link_and_an_address_are_read() -> None:
    info = attribute(1, b"bridge\0")
    body = struct.pack("=BxHiII", 0, 1, 7, RUNNING, 0)
    body += attribute(3, b"br0\0") + attribute(4, struct.pack("=I", 1400)) + attribute(18, info)
    data = message(16, body + attribute(10, struct.pack("=I", 2)))
    assert list(_netlink.links_of(data)) == [Link(7, "br0", "bridge", RUNNING, 1400, 2)]
    body = struct.pack("=BBBBI", 2, 24, 1, 0, 7)
    # A point-to-point link has the far end in IFA_ADDRESS; wide flags are an attribute.
    body += attribute(1, bytes([10, 0, 0, 9])) + attribute(2, bytes([10, 0, 0, 1]))
    data = message(20, body + attribute(8, struct.pack("=I", 0x20)))
    assert list(_netlink.addresses_of(data)) == [Assigned(7, "10.0.0.1", 24, 0x21)]


@given(st.binary(max_size=200), st.sampled_from([16, 20]))
def test_no_answer_makes_the_parser_fail(data: bytes, kind: int) -> None:
    for each in (data, message(kind, data)):
        list(_netlink.links_of(each))
        list(_netlink.addresses_of(each))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", True),
        ("2001:db8::1", True),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("ff02::1", False),
    ],
)
def test_reachable_addresses(address: str, expected: bool) -> None:
    assert is_reachable(address) is expected
