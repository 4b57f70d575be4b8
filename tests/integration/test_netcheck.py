"""``pilotctl netcheck`` behind real NATs, and on hosts with one family only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.namespaces import Routed, inside

from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None,
    reason="network namespaces and NAT need root, iproute2 and nftables",
)
CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]
V4 = ("10.77.1.2/24", "10.77.2.2/24")
V6 = ("fd77:1::2/64", "fd77:2::2/64")
#: Of the right host, where the beacons are.
SECOND = "10.77.2.3"


class Place:
    """A host on the left, and beacons on the right of a router."""

    def __init__(self, routed: Routed, beacons: list[str]) -> None:
        self.routed = routed
        self.beacons = beacons

    def nat(self, *rules: str) -> None:
        """Sets the rules of the router."""
        text = "flush ruleset\ntable inet lab {\n" + "\n".join(rules) + "\n}\n"
        command = [*inside(self.routed.router_name), "nft", "-f", "-"]
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)

    def check(self) -> dict[str, str]:
        """The results of the left host."""
        command = [*CTL, "--json", "netcheck", "--beacon", ",".join(self.beacons)]
        result = subprocess.run(
            [*inside(self.routed.left_name), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        report: dict[str, Any] = json.loads(result.stdout)["data"]
        assert [row["beacon"] for row in report["beacons"]] == self.beacons
        return {row["name"]: row["result"] for row in report["findings"]}


def masquerade(options: str = "") -> str:
    return (
        "chain out { type nat hook postrouting priority srcnat; "
        f'oifname "to-right" masquerade {options}; }}'
    )


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    left, right = request.param
    with Routed(left, right) as routed, ExitStack() as stack:
        hosts = [f"[{routed.right.ip}]" if routed.right.version == 6 else str(routed.right.ip)]
        if routed.right.version == 4:
            added = ("ip", "address", "add", f"{SECOND}/24", "dev", "up0")
            subprocess.run([*inside(routed.right_name), *added], check=True)
            hosts.append(SECOND)
        beacons: list[str] = []
        for host in (*hosts, hosts[0]):
            process = Process(
                "rendezvous",
                [
                    *("--registry-addr", f"{host}:0", "--beacon-addr", f"{host}:0"),
                    *("--store", str(tmp_path / f"registry-{len(beacons)}.json")),
                ],
                tmp_path / f"rendezvous-{len(beacons)}.log",
                prefix=inside(routed.right_name),
            )
            stack.callback(process.stop)
            beacons.append(process.ready["beacon"])
        yield Place(routed, beacons)


@pytest.mark.parametrize("place", [V4], indirect=True)
def test_the_kinds_of_nat_and_of_path(place: Place) -> None:
    found = place.check()
    assert (found["mapping"], found["ipv6"]) == ("no_nat", "none")
    assert found["mtu"] == "1500 (IPv4)"

    place.nat(masquerade())
    found = place.check()
    assert (found["mapping"], found["ports"]) == ("endpoint_independent", "preserving")
    assert (found["filtering"], found["hairpinning"]) == ("unknown", "no")
    assert found["ipv4"].startswith("10.77.2.254:")

    place.nat(masquerade("random,fully-random"))
    found = place.check()
    assert (found["mapping"], found["ports"]) == ("address_and_port_dependent", "random")

    # A narrow link whose router says nothing.
    place.routed.set_mtu(1124)
    place.nat(
        masquerade(),
        "chain quiet { type filter hook output priority filter; "
        "icmp type destination-unreachable drop; }",
    )
    (size,) = (int(text.split()[0]) for text in place.check()["mtu"].split(","))
    assert 1120 <= size <= 1124


@pytest.mark.parametrize("place", [V4], indirect=True)
def test_blocked_udp_is_told(place: Place) -> None:
    place.nat("chain in { type filter hook forward priority filter; ip protocol udp drop; }")
    found = place.check()
    assert (found["udp"], found["ipv4"], found["mapping"]) == ("no_answer", "no_answer", "unknown")


@pytest.mark.parametrize("place", [V6], indirect=True)
def test_a_host_with_ipv6_only(place: Place) -> None:
    found = place.check()
    assert (found["udp"], found["ipv4"], found["mapping"]) == ("works", "none", "no_nat")
    assert found["ipv6"].startswith("[fd77:1::2]:")
    assert found["mtu"] == "1500 (IPv6)"
