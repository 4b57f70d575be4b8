"""Invalid input at every socket is counted and has no other effect."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.registries import host_port

from pilotstack import Driver

if TYPE_CHECKING:
    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio
ROUNDS = 2000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_garbage_at_the_tunnel_and_the_beacon(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    rng = random.Random(1)
    doors = [host_port(a.tunnel), host_port(network.rendezvous.ready["beacon"])]
    async with Driver(a.socket) as client, await client.dial("agent-b:7") as stream:
        before = resident(a.pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for _ in range(ROUNDS):
                data = rng.randbytes(rng.choice([0, 1, 3, 40, 136, 1400, 60_000]))
                magic = rng.choice([b"", b"PILS", b"PILA", b"PILK", b"PILT", b"\x05", b"\x06"])
                for door in doors:
                    attacker.sendto((magic + data)[:65_000], door)
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"
        info = await client.call(0x0D)
        assert sum(info["dropped"].values()) > ROUNDS / 10
        assert resident(a.pid) < before + 64_000_000
    assert network.rendezvous.is_running
    # A new node still finds its endpoint.
    assert network.start("agent-c").endpoint
    assert b.process.is_running


def key_frames(rng: random.Random) -> list[bytes]:
    """A bare key, a forged and a self-signed one, and a sealed frame, of nodes that are not."""
    node = rng.randrange(1 << 20, 1 << 30).to_bytes(4)
    own, exchange = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)), rng.randbytes(32)
    proof = own.public_key().public_bytes_raw() + own.sign(b"auth" + node + exchange)
    return [
        b"PILK" + node + exchange,
        b"PILA" + node + rng.randbytes(128),
        b"PILA" + node + exchange + proof,
        b"PILS" + node + rng.randbytes(80),
    ]


async def test_unauthenticated_keys_use_no_slots_and_block_nobody(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    rng = random.Random(3)
    # From the address that the other node has, and from one of its own.
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for number, attacker in enumerate(sockets):
        attacker.bind((f"127.0.0.{1 + number}", 0))

    async def flood() -> None:
        while True:
            for frame in key_frames(rng):
                for attacker in sockets:
                    attacker.sendto(frame, host_port(a.tunnel))
            await anyio.lowlevel.checkpoint()

    async with Driver(a.socket) as client, Driver(b.socket) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            for driver, name in ((client, "agent-b"), (other, "agent-a"), (client, "agent-b")):
                async with await driver.dial(f"{name}:7") as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
            for dropped in ("bare_keys", "key_checks", "keys", "unauthentic"):
                while not (await client.call(0x0D))["dropped"][dropped]:
                    pass
            tasks.cancel_scope.cancel()
        info = await client.call(0x0D)
        assert info["peers"] == 1, info["peer_list"]
    for attacker in sockets:
        attacker.close()


@pytest.mark.parametrize("door", ["registry", "ipc"])
async def test_garbage_at_the_stream_sockets(network: Network, door: str) -> None:
    a = network.start("agent-a")
    rng = random.Random(2)

    def connect() -> socket.socket:
        if door == "registry":
            return socket.create_connection(host_port(network.registry))
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(a.socket))
        return client

    for number in range(200):
        body = rng.randbytes(rng.randrange(200))
        lengths = [len(body), 0, 1 << 31, (1 << 20) + 1, len(body) + 50, rng.randrange(1 << 32)]
        command = bytes([rng.randrange(256)]) if number % 2 else b""
        with connect() as client:
            client.settimeout(5)
            frame = rng.choice(lengths).to_bytes(4) + command + body
            try:
                client.sendall(frame[: rng.randrange(1, len(frame) + 1)])
            except OSError:
                continue
    for text in (b"null", b"[]", b"[" * 100_000, b'{"type":"lookup","node_id":NaN}', b'{"type":7}'):
        if door == "registry":
            with connect() as client:
                client.sendall(len(text).to_bytes(4) + text)
    async with Driver(a.socket) as driver:
        assert (await driver.resolve("agent-a")).node_id == a.node_id


async def test_a_driver_that_does_not_read_does_not_affect_others(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as lazy, Driver(a.socket) as busy:
        stuck = await lazy.dial("agent-b:7")
        with anyio.move_on_after(0.5):
            while True:
                # Nobody reads what comes back.
                await stuck.send(b"x" * 100_000)
        async with await busy.dial("agent-b:7") as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        await stuck.aclose()
    assert b.process.is_running
