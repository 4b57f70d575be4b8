"""Beacon processes as nodes of other implementations, and operators, see them."""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.namespaces import Routed, inside

from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Peer:
    """A node of another implementation."""

    def __init__(self, beacon: str, node: int, *, is_extended: bool = False) -> None:
        host, _, port = beacon.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.settimeout(20)
        self.socket.connect((host, int(port)))
        self.node = node
        self.send(bytes([8 if is_extended else 1]) + node.to_bytes(4))
        assert self.receive() == b"\x02" + self.endpoint

    @property
    def endpoint(self) -> bytes:
        host, port = self.socket.getsockname()[:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = socket.inet_pton(family, host)
        return bytes([len(address)]) + address + int(port).to_bytes(2)

    def send(self, message: bytes) -> None:
        self.socket.send(message)

    def receive(self) -> bytes:
        return self.socket.recv(2048)

    def prove(self, identity: Identity) -> None:
        """Announces itself with a signature."""
        announcement = b"\x01" + self.node.to_bytes(4) + identity.public_key
        self.send(announcement)
        cookie = self.receive()[-12:]
        signed = b"beacon" + self.node.to_bytes(4) + cookie.removeprefix(b"PILV")
        self.send(announcement + cookie + identity.sign(signed))
        self.receive()

    def relay(self, to: int, frame: bytes) -> None:
        self.send(b"\x05" + self.node.to_bytes(4) + to.to_bytes(4) + frame)


class World:
    """Processes and nodes, until the end of a test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.stack = ExitStack()

    def start(self, kind: str, *flags: str) -> dict[str, Any]:
        """Starts a server, and returns what it says when it is ready."""
        process = Process(kind, list(flags), self._directory / f"{kind}.log")
        self.stack.callback(process.kill)
        return process.ready

    def node(self, beacon: str, node: int, *, is_extended: bool = False) -> Peer:
        """A node that has announced itself."""
        peer = Peer(beacon, node, is_extended=is_extended)
        self.stack.callback(peer.socket.close)
        return peer


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.stack:
        yield world


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nodes_punch_and_exchange_frames(world: World, host: str) -> None:
    beacon = world.start("beacon", "--listen", f"{host}:0")["beacon"]
    a, b = world.node(beacon, 42), world.node(beacon, 0x01020304, is_extended=True)
    a.send(bytes.fromhex("030000002a01020304"))
    assert a.receive() == b"\x04" + b.endpoint
    assert b.receive() == b"\x04" + a.endpoint
    a.relay(b.node, b"PILS from a")
    assert b.receive() == bytes.fromhex("090000002a01020304") + b"PILS from a"
    b.relay(a.node, b"PILS from b")
    assert a.receive() == bytes.fromhex("0601020304") + b"PILS from b"
    # Who is not the sender is not relayed.
    world.node(beacon, 7).send(bytes.fromhex("050000002a01020304") + b"PILS forged")
    a.relay(b.node, b"PILS again")
    assert b.receive().endswith(b"PILS again")


def endpoint_in(message: bytes) -> tuple[str, int]:
    length = message[1]
    family = socket.AF_INET if length == 4 else socket.AF_INET6
    host = socket.inet_ntop(family, message[2 : 2 + length])
    return host, int.from_bytes(message[2 + length : 4 + length])


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "[::]:0"])
def test_nodes_that_know_no_cookies_prove_their_address_by_punching(
    world: World, listen: str
) -> None:
    beacon = world.start("beacon", "--listen", listen, "--limit-loopback")["beacon"]
    # A dual-stack socket tells addresses of IPv4 as such.
    beacon = beacon.replace("[::]", "127.0.0.1")
    a, b = world.node(beacon, 42), world.node(beacon, 43)
    a.send(bytes.fromhex("030000002a0000002b"))
    for peer in (a, b):
        challenge = peer.receive()
        assert challenge[0] == 0x04
        host, port = endpoint_in(challenge)
        assert (host, port) != peer.socket.getpeername()[:2]
        assert host == peer.socket.getpeername()[0]
        for _ in range(3):
            peer.socket.sendto(b"PILP", (host, port))
    # Now that both are where they say, they are told of each other.
    commands = {a: b"\x04" + b.endpoint, b: b"\x04" + a.endpoint}
    for peer, command in commands.items():
        while peer.receive() != command:
            pass
    a.relay(b.node, b"PILS")
    while (received := b.receive()) == commands[b]:
        pass
    assert received == bytes.fromhex("060000002a") + b"PILS"


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("beacon", ["--listen", ":0"]),
        ("registry", ["--registry-addr", ":0"]),
        ("rendezvous", ["--registry-addr", ":0", "--beacon-addr", ":0"]),
    ],
)
def test_a_port_without_a_host_serves_both_families(
    world: World, kind: str, flags: list[str]
) -> None:
    ready = world.start(kind, *flags)
    for host in ("127.0.0.1", "::1"):
        if beacon := ready.get("beacon"):
            world.node(f"{host}:{beacon.rpartition(':')[2]}", 42)
        if registry := ready.get("registry"):
            socket.create_connection((host, int(registry.rpartition(":")[2])), 20).close()


def test_a_rendezvous_gives_a_node_to_whom_its_registry_names(world: World) -> None:
    flags = ("--registry-addr", "127.0.0.1:0", "--beacon-addr", "127.0.0.1:0")
    served = world.start("rendezvous", *flags)
    owner, thief = Identity.generate(), Identity.generate()
    node = anyio.run(register, served["registry"], owner)
    elsewhere, home = (world.node(served["beacon"], node) for _ in range(2))
    sender = world.node(served["beacon"], 4242)
    elsewhere.prove(thief)
    sender.relay(node, b"PILS stolen")
    assert elsewhere.receive().endswith(b"PILS stolen")
    home.socket.settimeout(0.5)
    heard = b""
    while not heard:
        home.prove(owner)
        sender.relay(node, b"PILS")
        with suppress(TimeoutError):
            heard = home.receive()
    assert heard.endswith(b"PILS")


async def register(registry: str, identity: Identity) -> int:
    client = RegistryClient(parse_addresses(registry), identity)
    try:
        return (await client.register("127.0.0.1:4000")).node_id
    finally:
        await client.aclose()


def metrics_of(address: str) -> dict[str, float]:
    text = httpx.get(f"http://{address}/metrics").text
    return {
        f"{sample.name}{sample.labels.get('reason', '')}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_operators_see_health_and_figures(world: World) -> None:
    flags = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    ready = world.start("beacon", *flags)
    peer = world.node(ready["beacon"], 42)
    peer.relay(43, b"PILS")
    peer.relay(42, b"PILS")
    peer.receive()
    health = httpx.get(f"http://{ready['http']}/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    figures = metrics_of(ready["http"])
    assert figures["pilot_beacon_relayed_total"] == 1
    assert figures["pilot_beacon_dropped_totalunknown"] == 1
    assert figures["pilot_beacon_nodes"] == 1
    assert httpx.get(f"http://{ready['http']}/other").status_code == 404


def test_beacons_find_each_other_and_forward(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    # A rendezvous announces its own beacon.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rendezvous = world.start(
        "rendezvous",
        *("--registry-addr", "127.0.0.1:0", "--beacon-addr", f"127.0.0.1:{port}"),
        *("--beacon-id", "1", "--beacon-public-addr", f"127.0.0.1:{port}"),
        *("--admin-token", "secret", "--http", "127.0.0.1:0"),
    )
    beacons = [rendezvous["beacon"]]
    for number in (2, 3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        flags = (
            *("--listen", address, "--addr", address, "--id", str(number)),
            *("--registry", rendezvous["registry"], "--admin-token-file", str(token)),
        )
        beacons.append(world.start("beacon", *flags)["beacon"])
    # The last to announce itself knows both others at once; they take nothing of it until they have
    # asked the registry again.
    last, first = world.node(beacons[2], 42), world.node(beacons[0], 43)
    first.socket.settimeout(0.2)
    for _ in range(300):
        last.relay(43, b"PILS")
        try:
            received = first.receive()
            break
        except TimeoutError:
            continue
    assert received == b"\x06" + (42).to_bytes(4) + b"PILS"
    figures = metrics_of(rendezvous["http"])
    assert figures["pilot_beacon_beacons"] >= 1
    assert figures["pilot_beacon_relayed_total"] >= 1
    health = httpx.get(f"http://{rendezvous['http']}/healthz").json()
    assert health["components"] == {"beacon": "ok"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--id", "2"), "needs an address"),
        (("--id", "2", "--addr", "127.0.0.1:9001"), "needs a registry"),
        (("--proof-ports", "5-1"), "not a range of ports"),
        (("--addr", "nowhere"), "not an address"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        Process("beacon", ["--listen", "127.0.0.1:0", *flags], tmp_path / "log")
    report = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert told in report["message"], caught.value


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and iproute2",
)
def test_a_beacon_whose_interface_is_gone_can_be_stopped(tmp_path: Path) -> None:
    with Routed("10.77.1.2/24", "10.77.2.2/24") as routed:
        flags = ["--listen", f"{routed.left.ip}:0"]
        beacon = Process("beacon", flags, tmp_path / "log", prefix=inside(routed.left_name))
        assert beacon.ready["beacon"].startswith(f"{routed.left.ip}:")
        routed.unplug_left()
        assert beacon.stop() == 0
