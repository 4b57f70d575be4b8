"""Abuse of the registry's port: floods, slow clients, garbage, too many connections."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.support.registries import Raw, Registries, host_port

from pilotstack.errors import Throttled
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

FRAMES = 100_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_new_keys_are_throttled_and_known_ones_are_not(registries: Registries) -> None:
    address = registries.start("primary", "--limit-loopback", "--register-rate", "3")
    clients = [registries.client(address) for _ in range(4)]
    for client in clients[:3]:
        await client.register("127.0.0.1:4000")
    with pytest.raises(Throttled, match=r"rate limited: too many registrations from 127\.0\.0\.1"):
        await clients[3].register("127.0.0.1:4000")
    assert (await clients[0].register("127.0.0.1:4000")).node_id == 1
    await clients[0].heartbeat()


async def test_lookups_are_throttled_over_all_connections(registries: Registries) -> None:
    address = registries.start("primary", "--limit-loopback", "--lookup-rate", "1")
    texts = []
    for _ in range(4):
        with Raw(address) as raw:
            texts += [raw.ask({"type": "lookup", "node_id": n})["error"] for n in range(1, 6)]
    assert texts[:10] == [f"node {n}: node not found" for n in (1, 2, 3, 4, 5) * 2]
    assert "rate limited: too many lookups from 127.0.0.1" in texts[10:]


async def test_this_host_is_not_throttled_unless_told_so(registries: Registries) -> None:
    address = registries.start("primary", "--register-rate", "1", "--request-rate", "1")
    ids = [(await registries.client(address).register("127.0.0.1:4000")).node_id for _ in range(5)]
    assert ids == [1, 2, 3, 4, 5]


async def test_a_source_has_a_bounded_number_of_seats(registries: Registries) -> None:
    address = registries.start(
        "primary", "--limit-loopback", "--max-connections-per-source", "4", "--max-connections", "9"
    )
    seated = [Raw(address) for _ in range(4)]
    for raw in seated:
        assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
    with Raw(address) as fifth:
        # Nobody has proved anything yet, so the one that came first gives way.
        assert fifth.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
        assert seated[0].is_closed()
    for raw in seated[1:]:
        assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
    for raw in seated:
        raw.socket.close()


async def test_silent_connections_do_not_block_nodes(registries: Registries) -> None:
    address = registries.start("primary", "--limit-loopback", "--max-connections-per-source", "8")
    client = registries.client(address)
    await client.register("127.0.0.1:4000")
    silent = [Raw(address) for _ in range(20)]
    try:
        # The node's own connection is older than all of them, and proven.
        for _ in range(3):
            await client.heartbeat()
        with Raw(address) as newcomer:
            assert newcomer.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
        assert silent[0].is_closed()
    finally:
        for raw in silent:
            raw.socket.close()
        await client.aclose()


def garbage(rng: random.Random) -> bytes:
    """A frame whose body is no request that changes anything."""
    kind = rng.randrange(6)
    if kind == 0:
        body = b"null"
    elif kind == 1:
        body = b'{"type":"%s"}' % bytes(rng.choices(b"abcdefgh_", k=rng.randrange(20)))
    elif kind == 2:
        body = b'{"type":"lookup","node_id":%s}' % rng.choice(
            [b"true", b"-1", b"1e99", b"1.9", b'"1"', b"[]", b"{}", b"18446744073709551616"]
        )
    elif kind == 3:
        body = b'{"type":"resolve","signature":"%s","requester_id":1}' % (b"A" * rng.randrange(99))
    elif kind == 4:
        body = b'{"type":["register"],"public_key":%s}' % (b"[" * 50 + b"]" * 50)
    else:
        body = b'{"type":"register","public_key":"%s","hostname":"\\u0000"}' % (
            b"=" * rng.randrange(60)
        )
    return len(body).to_bytes(4) + body


async def test_a_hundred_thousand_frames_of_garbage(registries: Registries) -> None:
    address = registries.start("primary")
    rng = random.Random(3)
    before = resident(registries.processes["primary"].pid)

    def attack() -> None:
        sent = 0
        while sent < FRAMES:
            with Raw(address) as raw:
                count = min(5000, FRAMES - sent)
                answers = 0
                # In slices, so that neither side's buffers fill up.
                for start in range(0, count, 100):
                    raw.socket.sendall(b"".join(garbage(rng) for _ in range(100)))
                    for _ in range(100):
                        answer = raw.receive()
                        assert answer["type"] == "error", answer
                        answers += 1
                    del start
                sent += answers

    await anyio.to_thread.run_sync(attack)
    assert resident(registries.processes["primary"].pid) < before + 64_000_000
    client = registries.client(address)
    assert (await client.register("127.0.0.1:4000")).node_id == 1
    assert "task_failed" not in registries.log_of("primary")


@pytest.mark.parametrize(
    "data",
    [
        (0).to_bytes(4),
        ((1 << 20) + 1).to_bytes(4) + b"x" * 1000,
        (0xFFFFFFFF).to_bytes(4),
        b"PILT\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        (2).to_bytes(4) + b"[]",
        (3).to_bytes(4) + b"\xff\xfe\xfd",
        (200_000).to_bytes(4) + b"[" * 200_000,
        (200_000).to_bytes(4) + b'{"a":' * 40_000,
    ],
)
async def test_an_invalid_frame_closes_the_connection_without_a_reply(
    registries: Registries, data: bytes
) -> None:
    address = registries.start("primary")
    with Raw(address) as bystander, Raw(address) as raw:
        assert bystander.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
        raw.socket.sendall(data)
        assert raw.is_closed()
        assert bystander.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"


async def test_a_whole_megabyte_is_a_request(registries: Registries) -> None:
    address = registries.start("primary")
    with Raw(address) as raw:
        body = b'{"type":"beacon_list","padding":"%s"}'
        body %= b"x" * ((1 << 20) - len(body) + 2)
        assert len(body) == 1 << 20
        raw.socket.sendall(len(body).to_bytes(4) + body)
        assert raw.receive()["type"] == "beacon_list_ok"


async def test_slow_and_silent_clients_delay_nobody(registries: Registries) -> None:
    address = registries.start("primary")
    where = host_port(address)
    slow = [socket.create_connection(where) for _ in range(500)]
    for number, each in enumerate(slow):
        each.sendall((1 << 19).to_bytes(4)[: number % 5] + b"x" * (number % 3))
    client = registries.client(address)
    assert (await client.register("127.0.0.1:4000")).node_id == 1
    for each in slow:
        each.close()


async def test_running_out_of_descriptors_is_survived(registries: Registries) -> None:
    few = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    address = registries.start("primary", prefix=few)
    bystander = registries.client(address)
    await bystander.register("127.0.0.1:4000")
    where = host_port(address)
    crowd = [socket.create_connection(where) for _ in range(200)]
    try:
        await bystander.heartbeat()
        assert (await registries.client(address).register("127.0.0.1:4001")).node_id == 2
    finally:
        for client in crowd:
            client.close()
    await bystander.heartbeat()
    assert registries.processes["primary"].is_running


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_the_operators_decisions_reach_the_registry(
    registries: Registries, tmp_path: Path
) -> None:
    address = registries.start(
        "primary", "--require-signed-registration", "--admin-token", "operator"
    )
    key = values.encode_base64(bytes(31) + b"\x09")
    with Raw(address) as raw:
        unsigned = {"type": "register", "public_key": key, "listen_addr": "127.0.0.1:1"}
        assert "signature" in raw.ask(unsigned)["error"]
        node_id = (await registries.client(address).register("127.0.0.1:4000")).node_id
        create = {"type": "create_network", "node_id": node_id, "name": "lab"}
        assert raw.ask(create | {"admin_token": "guess"})["error"] == "invalid admin token"
        assert raw.ask(create | {"admin_token": "operator"})["network_id"] == 1
    assert "operator" not in registries.log_of("primary")
    registries.processes["primary"].stop()
    assert b"operator" not in (tmp_path / "primary.json").read_bytes()
