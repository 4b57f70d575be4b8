"""The NATs of the lab are what they are called: seen from outside, by two public servers."""

from __future__ import annotations

import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.lab import port_mapper
from tests.lab.probe import Probe

from pilotstack.testing.internet import (
    KINDS,
    Allocation,
    Behaviour,
    Internet,
    Link,
    missing_requirement,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    bool(missing_requirement("nft", "conntrack")),
    reason=f"network namespaces need {missing_requirement('nft', 'conntrack')}",
)


@pytest.fixture
def internet() -> Iterator[Internet]:
    with Internet("pilotkinds") as internet:
        yield internet


@pytest.fixture
def probe(internet: Internet) -> Iterator[Probe]:
    with Probe(internet.public("first"), internet.public("second")) as probe:
        yield probe


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_maps_and_filters_as_it_claims(kind: str, internet: Internet, probe: Probe) -> None:
    nat = KINDS[kind]
    home = internet.home("home", nat)
    seen = probe.ask(home.host("laptop"))
    assert (seen.mapping, seen.filtering) == (nat.mapping, nat.filtering), seen
    assert seen.is_preserving == (nat.allocation is Allocation.PRESERVING), seen
    assert seen.is_sequential == (nat.allocation is Allocation.SEQUENTIAL), seen


@pytest.mark.parametrize("kind", ["full-cone", "port-restricted"])
def test_what_came_too_early_changes_no_mapping(
    kind: str, internet: Internet, probe: Probe
) -> None:
    home = internet.home("home", KINDS[kind])
    laptop, stranger = home.host("laptop"), internet.public("stranger")
    with laptop.socket() as inner, stranger.socket() as early:
        inner.bind((laptop.ipv4, 4000))
        early.bind((stranger.ipv4, 4000))
        early.settimeout(5)
        early.sendto(b"too early", (home.router.ipv4, 4000))
        inner.sendto(b"hello", (stranger.ipv4, 4000))
        assert early.recvfrom(16) == (b"hello", (home.router.ipv4, 4000))


def test_two_nats_in_series_are_as_strict_as_the_stricter(internet: Internet, probe: Probe) -> None:
    carrier = internet.carrier("carrier", KINDS["remapping"])
    home = internet.home("home", KINDS["full-cone"], at=carrier)
    seen = probe.ask(home.host("laptop"))
    assert seen.mapping is Behaviour.ENDPOINT_INDEPENDENT
    assert seen.filtering is Behaviour.ADDRESS_AND_PORT_DEPENDENT
    assert not seen.is_preserving


@pytest.mark.parametrize("has_hairpin", [False, True])
def test_neighbours_reach_each_other_by_outer_endpoints_if_it_hairpins(
    has_hairpin: bool, internet: Internet, probe: Probe
) -> None:
    nat = KINDS["full-cone"]
    home = internet.home("home", nat.hairpinning() if has_hairpin else nat)
    laptop, phone = home.host("laptop"), home.host("phone")
    server = next(iter(probe.servers))
    with laptop.socket() as one, phone.socket() as other:
        one.bind((laptop.ipv4, 0))
        other.bind((phone.ipv4, 0))
        outer = probe.contact(one, server)
        other.sendto(b"neighbour", outer)
        come = probe.answers(one, outer, server)
    assert (len(come) == 2) == has_hairpin


@pytest.mark.parametrize("kind", ["full-cone", "port-restricted"])
def test_a_binding_dies_unused(kind: str, internet: Internet, probe: Probe) -> None:
    home = internet.home("home", KINDS[kind].living(1))
    laptop = home.host("laptop")
    server, other, *_ = probe.servers
    with laptop.socket() as inner:
        inner.bind((laptop.ipv4, 0))
        outer = probe.contact(inner, server)
        assert probe.answers(inner, outer, server) == {server}
        # Nothing comes for longer than it lives.
        assert not select.select([inner], [], [], 2.5)[0]
        probe.send(server, outer)
        outer = probe.contact(inner, other)
        assert probe.answers(inner, outer, other) == {other}


@pytest.mark.parametrize("kind", ["full-cone", "symmetric"])
def test_a_reboot_forgets(kind: str, internet: Internet, probe: Probe) -> None:
    home = internet.home("home", KINDS[kind])
    laptop = home.host("laptop")
    server, other, *_ = probe.servers
    with laptop.socket() as inner:
        inner.bind((laptop.ipv4, 0))
        outer = probe.contact(inner, server)
        home.reboot()
        probe.send(server, outer)
        outer = probe.contact(inner, other)
        assert probe.answers(inner, outer, other) == {other}


def test_a_home_gets_other_addresses(internet: Internet, probe: Probe) -> None:
    home = internet.home("home", KINDS["sequential"], Link(has_ipv6=True))
    laptop = home.host("laptop")
    before = home.router.ipv4, laptop.ipv6
    with laptop.socket() as inner:
        inner.bind((laptop.ipv4, 0))
        server = next(iter(probe.servers))
        assert probe.contact(inner, server)[0] == before[0]
        home.renumber()
        assert probe.contact(inner, server)[0] == home.router.ipv4 != before[0]
    assert laptop.ipv6 != before[1]


def test_a_host_moves_from_one_network_to_another(internet: Internet, probe: Probe) -> None:
    home, cafe = (internet.home(name, KINDS["port-restricted"]) for name in ("home", "cafe"))
    laptop = home.host("laptop")
    server = next(iter(probe.servers))
    with laptop.socket() as inner:
        inner.bind(("0.0.0.0", 0))
        assert probe.contact(inner, server)[0] == home.router.ipv4
        home.leave(laptop)
        cafe.join(laptop)
        assert probe.contact(inner, server)[0] == cafe.router.ipv4


# On the way up, a link of the kernel has room for a VLAN tag.
@pytest.mark.parametrize("size", [1124, 1129])
def test_a_narrow_link_loses_what_is_too_big_and_says_nothing(
    size: int, internet: Internet, probe: Probe
) -> None:
    home = internet.home("home", KINDS["port-restricted"], Link(mtu=1124))
    laptop = home.host("laptop")
    server = next(iter(probe.servers))
    with laptop.socket() as inner:
        inner.bind((laptop.ipv4, 0))
        # IP_MTU_DISCOVER: set DF, and believe no one about the path.
        inner.setsockopt(socket.IPPROTO_IP, 10, 3)
        outer = probe.contact(inner, server)
        inner.sendto(bytes(size - 28), server)
        probe.send(server, outer, size - 28)
        last = b"the last"
        inner.sendto(last, server)
        passed = [probe.take(server)]
        while passed[-1] != last:
            passed.append(probe.take(server))
        assert (len(passed) == 2) == (size <= 1124)
        come = probe.answers(inner, outer, server)
        assert come == {server}


def test_a_block_stops_two_and_nobody_else(internet: Internet, probe: Probe) -> None:
    home = internet.home("home", KINDS["full-cone"])
    laptop = home.host("laptop")
    first, _, second, _ = probe.servers
    with laptop.socket() as inner:
        inner.bind((laptop.ipv4, 0))
        internet.block(home.router, probe.hosts[0])
        inner.sendto(b"lost", first)
        probe.contact(inner, second)
        internet.unblock()
        outer = probe.contact(inner, first)
        assert probe.answers(inner, outer, first) == {first}


def test_a_firewall_lets_answers_in_only(internet: Internet) -> None:
    link = Link(has_ipv6=True)
    server = internet.public("server", link)
    home = internet.home("home", None, Link(has_ipv4=False, has_ipv6=True))
    laptop = home.host("laptop")
    with (
        laptop.socket(family=socket.AF_INET6) as inner,
        server.socket(family=socket.AF_INET6) as outer,
    ):
        for end, host in ((inner, laptop), (outer, server)):
            end.bind((host.ipv6, 4000))
            end.settimeout(5)
        outer.sendto(b"stranger", (laptop.ipv6, 4000))
        inner.sendto(b"hello", (server.ipv6, 4000))
        assert outer.recvfrom(16)[0] == b"hello"
        outer.sendto(b"answer", (laptop.ipv6, 4000))
        assert inner.recvfrom(16)[0] == b"answer"


@pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="needs miniupnpd")
def test_a_router_maps_a_port_when_it_is_asked(internet: Internet, probe: Probe) -> None:
    home = internet.home("home", KINDS["symmetric"])
    laptop = home.host("laptop")
    server = next(iter(probe.servers))
    with ExitStack() as stack:
        port_mapper.start(stack, home.router)
        inner, asking = (stack.enter_context(laptop.socket()) for _ in range(2))
        inner.bind((laptop.ipv4, 4000))
        for end in (inner, asking):
            end.settimeout(5)
        # NAT-PMP (RFC 6886): map UDP port 4000 to 4000 for an hour.
        asking.sendto(struct.pack("!BBHHHI", 0, 1, 0, 4000, 4000, 3600), ("192.168.1.1", 5351))
        assert asking.recv(16)[:4] == bytes([0, 129, 0, 0])
        probe.send(server, (home.router.ipv4, 4000))
        assert inner.recvfrom(16)[1] == server


def test_nothing_is_left_behind_even_by_a_killed_process() -> None:
    script = (
        "import os, sys\n"
        "from pilotstack.testing.internet import Namespaces\n"
        "with Namespaces('pilotkilled') as spaces:\n"
        "    print(spaces.add('host').name, flush=True)\n"
        "    if sys.argv[1:]: os.kill(os.getpid(), 9)\n"
        "    raise KeyboardInterrupt\n"
    )

    def run(*flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *flags], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    killed = run("killed")
    assert os.path.exists(f"/run/netns/{killed}")
    interrupted = run()
    assert not os.path.exists(f"/run/netns/{interrupted}")
    assert not os.path.exists(f"/run/netns/{killed}")
