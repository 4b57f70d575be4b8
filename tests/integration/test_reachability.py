"""Where daemons say that they are, which beacons they use, and how a connection comes about."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.namespaces import Routed, inside

from pilotstack import sync
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.registry.protocol.requests.beacons import BeaconRegister
from pilotstack.testing import Network, Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]


def ctl(socket_path: object, *arguments: object, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    command = [*prefix, *CTL, "--socket", str(socket_path), "--json", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, check=False, timeout=50)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def data(socket_path: object, *arguments: object, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    answer = ctl(socket_path, *arguments, prefix=prefix)
    assert answer["status"] == "ok", answer
    found: dict[str, Any] = answer["data"]
    return found


def test_a_trace_shows_the_steps_and_the_path(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    cold = data(a.socket, "traceroute", "agent-b")
    assert (cold["target"], cold["to"]) == ("agent-b", b.address)
    names = [phase["name"] for phase in cold["phases"]]
    assert [name for name in names if name != "path"] == ["resolve", "tunnel", "dial"]
    assert all(phase["ms"] > 0 for phase in cold["phases"] if phase["name"] != "path")
    assert cold["setup_ms"] >= cold["phases"][0]["ms"]
    assert [row["bytes"] for row in cold["rtt_samples"]] == [10, 10, 10]
    assert (cold["path"]["node_id"], cold["path"]["endpoint"]) == (b.node_id, b.endpoint)
    warm = data(a.socket, "traceroute", b.address)
    assert [p["detail"] for p in warm["phases"] if p["name"] == "tunnel"] == ["established"]
    itself = data(a.socket, "traceroute", a.address)
    assert itself["phases"][0]["detail"] == "this node"


def test_a_trace_to_nobody_fails_with_what_it_found(network: Network) -> None:
    a = network.start("agent-a")
    missing = ctl(a.socket, "traceroute", 99)
    assert missing["code"] == "not_found"
    assert missing["data"]["target"] == "99"
    name = ctl(a.socket, "traceroute", "nobody")
    assert name["code"] == "not_found"


def test_peers_have_the_ways_that_were_considered(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    data(a.socket, "ping", "agent-b", "--count", 1)
    (row,) = data(a.socket, "peers")["peers"]
    assert row["node_id"] == b.node_id
    assert isinstance(row["candidates"], list)
    info = data(a.socket, "info")
    assert "candidates" not in info["peer_list"][0]
    assert info["beacons"] == [network.rendezvous.ready["beacon"]]
    assert info["lan_addrs"] == [a.tunnel]


def test_host_candidates_and_relay_only_are_registered(network: Network) -> None:
    a = network.start("agent-a")
    hidden = network.start("agent-h", "--relay-only")
    registry = ("--registry", network.registry)
    shown = data(a.socket, "lookup", hidden.node_id, *registry)
    assert shown["relay_only"] is True
    assert not shown.get("real_addr")
    assert data(a.socket, "lookup", a.node_id, *registry)["real_addr"] == a.endpoint
    info = data(hidden.socket, "info")
    assert (info["relay_only"], info["lan_addrs"]) == (True, [])


def test_peers_on_one_host_find_the_direct_path(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    trace = data(a.socket, "traceroute", "agent-b")
    assert (trace["path"]["path"], trace["path"]["endpoint"]) == ("lan", b.tunnel)
    info = data(a.socket, "info")
    assert (info["paths"], info["relay_peer_count"]) == ({"lan": 1}, 0)
    assert info["path_events"]["path_lan"] >= 1
    log = (network.path / "agent-a.log").read_text()
    assert f"node={b.node_id} path=lan" in log.replace("  ", " ")


@pytest.fixture
def dead() -> Iterator[str]:
    """A beacon that does not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{mute.getsockname()[1]}"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_beacon_that_the_registry_lists_stands_in_for_a_dead_one(
    network: Network, dead: str
) -> None:
    beacon = network.rendezvous.ready["beacon"]
    client = RegistryClient(parse_addresses(network.registry))
    await client.ask(BeaconRegister(beacon_id=7, addr=beacon))
    assert await client.beacons() == (beacon,)
    await client.aclose()
    node = network.start("agent-a", "--beacon", "", "--beacon", dead)
    with sync.Driver(node.socket) as driver:
        while beacon not in driver.info().beacons:
            pass
    path = network.path / "agent-a" / "beacons.json"
    assert json.loads(path.read_bytes()) == {"beacons": [beacon]}


def test_several_beacons_can_be_named(network: Network, dead: str) -> None:
    beacon = network.rendezvous.ready["beacon"]
    node = network.start("agent-a", "--beacon", "", "--beacon", f"{dead},{beacon}")
    info = data(node.socket, "info")
    assert (info["beacon_addr"], info["beacons"]) == (dead, [dead, beacon])
    assert node.endpoint == node.tunnel, "the second one has answered"


def test_an_identity_that_is_started_elsewhere_takes_over(network: Network) -> None:
    a, old = network.start("agent-a"), network.start("agent-b", "--keepalive", "1")
    data(a.socket, "ping", "agent-b", "--count", 1)
    elsewhere = network.path / "elsewhere"
    shutil.copytree(network.path / "agent-b", elsewhere)
    identity = elsewhere / "identity.json"
    new = network.start("agent-c", "--identity", str(identity), "--hostname", "agent-b")
    assert new.node_id == old.node_id
    assert old.process.stop() == 0
    # It has not taken the other one off.
    registry = ("--registry", network.registry)
    record = data(a.socket, "lookup", new.node_id, *registry)
    assert record["real_addr"] == new.endpoint
    assert not record.get("offline")
    assert data(a.socket, "ping", "agent-b", "--count", 1)["results"][0]["rtt_ms"] > 0


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and iproute2",
)
def test_hosts_with_ipv6_only_reach_each_other(tmp_path: Path) -> None:
    with Routed("fd77:1::2/64", "fd77:2::2/64") as routed, ExitStack() as stack:

        def start(kind: str, name: str, namespace: str, *flags: str) -> Process:
            log = tmp_path / f"{name}.log"
            process = Process(kind, list(flags), log, prefix=inside(namespace))
            stack.callback(process.stop)
            return process

        served = start(
            "rendezvous",
            "rendezvous",
            routed.left_name,
            *("--registry-addr", "[::]:0", "--beacon-addr", f"[{routed.left.ip}]:0"),
            *("--store", str(tmp_path / "registry.json")),
        ).ready
        port = served["registry"].rpartition(":")[2]
        nodes = {}
        for name, namespace in (("a", routed.left_name), ("b", routed.right_name)):
            nodes[name] = start(
                "daemon",
                name,
                namespace,
                *("--registry", f"[{routed.left.ip}]:{port}", "--beacon", served["beacon"]),
                *("--hostname", name, "--public", "--socket", str(tmp_path / f"{name}.sock")),
            ).ready
        for name, host in (("a", routed.left), ("b", routed.right)):
            assert nodes[name]["endpoint"].startswith(f"[{host.ip}]:")
            info = data(tmp_path / f"{name}.sock", "info")
            assert info["lan_addrs"] == [nodes[name]["endpoint"]]
        answer = data(
            tmp_path / "a.sock", "ping", "b", "--count", 1, prefix=tuple(inside(routed.left_name))
        )
        assert answer["results"][0]["rtt_ms"] > 0
