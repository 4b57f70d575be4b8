"""Who may register and ask what, and how long it lasts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.unit.services import vectors
from tests.unit.services.streams import pipe

from pilotstack.errors import ConnectionFailed, InvalidArgument
from pilotstack.services.nameserver import codec, store
from pilotstack.services.nameserver import server as nameserver
from pilotstack.services.nameserver.memory import Buckets, Remembered
from pilotstack.services.nameserver.records import NameRecord
from pilotstack.services.nameserver.server import Dialect, Nameserver
from pilotstack.services.nameserver.store import Store
from pilotstack.services.nameserver.zone import MAX_PER_NODE, Zone
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
RESPONSES = vectors.of("nameserver")["responses"]


class Registry:
    """Two hostnames and a network."""

    def __init__(self) -> None:
        self.hostnames = {"agent-a": Address(0, 1), "agent-b": Address(0, 2)}
        self.members = {7: {1, 2}}
        self.is_down = self.is_silent = False
        self.asked: list[object] = []

    async def resolve(self, name: str) -> Address | None:
        self.asked.append(name)
        if self.is_silent:
            await anyio.sleep_forever()
        if self.is_down:
            raise ConnectionFailed("no registry answers")
        return self.hostnames.get(name)

    async def is_member(self, node: int, network: int) -> bool:
        self.asked.append((node, network))
        if self.is_down:
            raise ConnectionFailed("no registry answers")
        return node in self.members.get(network, ())


class World:
    """A nameserver, its registry, and the time."""

    def __init__(
        self,
        path: Path | None = None,
        dialect: Dialect = "records",
        now: float = 1_000_000.0,
    ) -> None:
        self.registry = Registry()
        self.now = now
        self.server = Nameserver(
            self.registry, Store(path), dialect=dialect, clock=lambda: self.now
        )

    async def ask(self, node: int, line: str, network: int = 0) -> str:
        return await self.server.answer(line, Address(network, node))


@pytest.fixture
def world() -> World:
    return World()


async def test_names_are_registered_and_asked_for(world: World) -> None:
    assert await world.ask(7, "REGISTER A agent-alpha 0:0000.0000.0007") == RESPONSES["OK"]
    assert await world.ask(9, "QUERY A Agent-Alpha") == RESPONSES["A"]
    assert await world.ask(1, "REGISTER N research-lab 7") == "OK"
    assert await world.ask(9, "QUERY N research-lab") == "N research-lab 7"
    assert await world.ask(9, "QUERY A nope") == RESPONSES["ERR_name"]
    assert await world.ask(9, "QUERY N nope") == RESPONSES["ERR_network"]


async def test_the_short_dialect() -> None:
    world = World(dialect="short")
    await world.ask(7, "REGISTER A agent-alpha 0:0000.0000.0007")
    await world.ask(1, "REGISTER N research-lab 7")
    assert await world.ask(9, "QUERY A agent-alpha") == "OK 0:0000.0000.0007"
    assert await world.ask(9, "QUERY N research-lab") == "OK 7"


async def test_nodes_register_for_themselves_only(world: World) -> None:
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0007") == RESPONSES["ERR_foreign_A"]
    assert await world.ask(8, "REGISTER S api 0:0000.0000.0007 0 80") == RESPONSES["ERR_foreign_S"]
    # Node 0 is nobody; existing servers take anything from it.
    assert (await world.ask(0, "REGISTER A x 0:0000.0000.0007")).startswith("ERR ")
    assert not len(world.server.zone)


async def test_a_name_is_its_first_owners(world: World) -> None:
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0008") == 'ERR name "x" is taken'
    assert await world.ask(8, "UNREGISTER A x") == 'ERR name "x" is not yours'
    assert await world.ask(7, "UNREGISTER A x") == "OK"
    assert await world.ask(7, "UNREGISTER A x") == 'ERR name "x" not found'
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0008") == "OK"
    # It expires, unless it is registered again.
    world.now += 299
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0008") == "OK"
    world.now += 299
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == 'ERR name "x" is taken'
    world.now += 1
    assert await world.ask(9, "QUERY A x") == 'ERR name "x" not found'
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"


@pytest.mark.parametrize("name", ["12", "-x", "a..b", "x" * 64, "a/b", "ä", "\x1b[31m"])
async def test_odd_names_are_refused(world: World, name: str) -> None:
    reply = await world.ask(7, f"REGISTER A {name} 0:0000.0000.0007")
    assert reply.startswith("ERR invalid name")
    assert reply.isascii()
    assert (await world.ask(7, f"QUERY A {name}")).endswith("not found")


async def test_hostnames_of_the_registry_are_names(world: World) -> None:
    assert await world.ask(9, "QUERY A agent-b") == "A agent-b 0:0000.0000.0002"
    assert await world.ask(9, "REGISTER A agent-b 0:0000.0000.0009") == (
        'ERR name "agent-b" is taken'
    )
    # Its own node may register it, also by another address.
    assert await world.ask(2, "REGISTER A agent-b 7:0007.0000.0002") == "OK"
    # Asked once: the answer is remembered, and so is that there is none.
    assert world.registry.asked.count("agent-b") == 1
    for _ in range(3):
        await world.ask(9, "QUERY A nobody")
    assert world.registry.asked.count("nobody") == 1
    world.now += 6
    await world.ask(9, "QUERY A nobody")
    assert world.registry.asked.count("nobody") == 2


async def test_a_new_hostname_of_the_registry_ends_a_record(world: World) -> None:
    assert await world.ask(9, "REGISTER A agent-c 0:0000.0000.0009") == "OK"
    world.registry.hostnames["agent-c"] = Address(0, 3)
    # It was remembered that there is none.
    world.now += 5
    assert await world.ask(8, "QUERY A agent-c") == "A agent-c 0:0000.0000.0003"
    assert await world.ask(9, "REGISTER A agent-c 0:0000.0000.0009") == (
        'ERR name "agent-c" is taken'
    )


async def test_a_record_is_told_though_the_registry_is_silent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameserver, "SHORT_ANSWER", 0.01)
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"
    world.now += 60
    world.registry.is_silent = True
    assert await world.ask(9, "QUERY A x") == "A x 0:0000.0000.0007"


async def test_what_a_daemon_has_of_the_nameserver_is_not_taken_for_a_hostname(
    world: World,
) -> None:
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"
    # A daemon that does not find a hostname asks the nameserver.
    world.registry.hostnames["x"] = Address(0, 7)
    world.now += 60
    assert await world.ask(9, "QUERY A x") == "A x 0:0000.0000.0007"
    assert await world.ask(7, "UNREGISTER A x") == "OK"
    del world.registry.hostnames["x"]
    world.now += 5
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0008") == "OK"


async def test_networks_are_their_members_own(world: World) -> None:
    for line in (
        "REGISTER A x 7:0007.0000.0009",
        "REGISTER N lab 7",
        "REGISTER S api 0:0000.0000.0009 7 80",
    ):
        assert await world.ask(9, line) == "ERR not a member of network 7"
    assert await world.ask(1, "REGISTER A x 7:0007.0000.0001") == "OK"
    assert await world.ask(1, "REGISTER S api 7:0007.0000.0001 7 80") == "OK"
    assert await world.ask(2, "QUERY A x") == "A x 7:0007.0000.0001"
    assert await world.ask(2, "QUERY S 7 80") == "S api 7:0007.0000.0001 80"
    # Others do not learn of it.
    assert await world.ask(9, "QUERY A x") == 'ERR name "x" not found'
    assert await world.ask(9, "QUERY S 7 80") == RESPONSES["S_none"]
    # Who calls by an address of the network is in it: the daemon lets nobody else in.
    assert await world.ask(9, "QUERY S 7 80", network=7) == "S api 7:0007.0000.0001 80"
    assert (await world.ask(1, "REGISTER N lab 0")).startswith("ERR cannot register")
    assert (await world.ask(1, "REGISTER S x 8:0008.0000.0001 7 80")).startswith("ERR cannot")


async def test_services_are_found_by_port(world: World) -> None:
    for node in (3, 4):
        address = Address(0, node)
        assert await world.ask(node, f"REGISTER S api{node} {address} 0 8080") == "OK"
    assert await world.ask(4, "REGISTER S renamed 0:0000.0000.0004 0 8080") == "OK"
    assert await world.ask(9, "QUERY S 0 8080") == (
        "S api3 0:0000.0000.0003 8080\nS renamed 0:0000.0000.0004 8080"
    )
    assert await world.ask(9, "QUERY S 0 80") == "S"
    assert await world.ask(3, "UNREGISTER S renamed 0 8080") == 'ERR name "renamed" not found'
    assert await world.ask(4, "UNREGISTER S renamed 0 8080") == "OK"
    assert await world.ask(9, "QUERY S 0 8080") == "S api3 0:0000.0000.0003 8080"


async def test_nodes_list_their_own_records(world: World) -> None:
    assert await world.ask(1, "LIST") == "OK"
    lines = ["A x 0:0000.0000.0001", "N lab 7", "S api 0:0000.0000.0001 7 80"]
    for line in lines:
        assert await world.ask(1, f"REGISTER {line}") == "OK"
    assert (await world.ask(1, "LIST")).splitlines() == lines
    assert await world.ask(2, "LIST") == "OK"


async def test_without_a_registry_owners_keep_their_names(world: World) -> None:
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"
    world.registry.is_down = True
    world.now += 60
    assert await world.ask(7, "REGISTER A x 0:0000.0000.0007") == "OK"
    assert await world.ask(9, "QUERY A x") == "A x 0:0000.0000.0007"
    for line in ("REGISTER A y 0:0000.0000.0007", "QUERY A z", "REGISTER N lab 7"):
        assert "try again" in await world.ask(7, line)


async def test_what_a_node_may_ask_and_have_is_bounded(world: World) -> None:
    for number in range(MAX_PER_NODE):
        line = f"REGISTER S s{number} 0:0000.0000.0007 0 {number}"
        assert await world.ask(7, line) == "OK"
    assert (await world.ask(7, "REGISTER A x 0:0000.0000.0007")).startswith("ERR cannot")
    # Another node may.
    assert await world.ask(8, "REGISTER A x 0:0000.0000.0008") == "OK"
    replies = {await world.ask(9, f"QUERY A guess{number}") for number in range(60)}
    assert any("too many questions" in reply for reply in replies)
    assert world.server.dropped["names_limited"] > 0
    assert await world.ask(8, "QUERY A agent-b") == "A agent-b 0:0000.0000.0002"


def test_a_full_zone_makes_room_of_what_expired() -> None:
    zone = Zone(limit=2, ttl=10)
    for number, now in ((1, 0.0), (2, 5.0)):
        zone.register(_name(number), number, now)
    with pytest.raises(codec.Refused):
        zone.register(_name(3), 3, 6.0)
    zone.register(_name(3), 3, 10.0)
    assert len(zone) == 2


def _name(node: int) -> NameRecord:
    return NameRecord(f"n{node}", Address(0, node))


# Streams


async def ask_stream(world: World, *sent: bytes, ends: bool = False) -> bytes:
    """What a stream with these writes is answered."""
    ours, theirs = pipe(dialler=SocketAddress(Address(0, 7), 50_000))
    async with ours, anyio.create_task_group() as tasks:
        tasks.start_soon(world.server.handle, theirs)  # type: ignore[arg-type]
        for part in sent:
            await ours.send(part)
        if ends:
            await ours.send_eof()
        answer = b"".join([chunk async for chunk in ours])
    return answer


async def test_a_request_ends_by_a_line_feed_an_end_or_a_pause(world: World) -> None:
    for sent, ends in (
        ((b"QUERY A agent-b\n",), False),
        ((b"QUERY A ", b"agent-b"), True),
        ((b"QUERY A agent-b",), False),
        ((b"QUERY A agent-b\nQUERY A nope\n",), False),
    ):
        assert await ask_stream(world, *sent, ends=ends) == b"A agent-b 0:0000.0000.0002"


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00", b"GET / HTTP/1.1\r\n\r\n", b"\n", b"QUERY A \xff\xff\n"]
)
async def test_garbage_is_answered(world: World, garbage: bytes) -> None:
    assert (await ask_stream(world, garbage)).startswith(b"ERR ")


async def test_long_requests_are_cut_off(world: World) -> None:
    answer = await ask_stream(world, b"QUERY A " + b"x" * codec.MAX_REQUEST)
    assert answer == b"ERR request too long"
    assert world.server.dropped["names_malformed"] == 1
    assert await ask_stream(world, b"QUERY A " + b"x" * 300 + b"\n") == (
        b"ERR name too long: 300 bytes (max 253)"
    )


# The file


async def test_records_outlive_the_server(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    world = World(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.server.keep)
        await world.ask(1, "REGISTER A x 7:0007.0000.0001")
        await world.ask(1, "REGISTER N lab 7")
        world.now += 10.5
        await world.ask(2, "REGISTER S api 0:0000.0000.0002 7 80")
        tasks.cancel_scope.cancel()
    assert path.stat().st_mode & 0o777 == 0o600
    found = json.loads(path.read_text())
    assert found["a_records"] == [
        {
            "name": "x",
            "address": "7:0007.0000.0001",
            "created_at": "1970-01-12T13:46:40Z",
            "owner": 1,
        }
    ]
    again = World(path, now=world.now)
    assert list(again.server.zone.entries) == list(world.server.zone.entries)
    assert await again.ask(2, "QUERY A x") == "A x 7:0007.0000.0001"
    # What has expired meanwhile is gone.
    again.now += 289.5
    late = Zone()
    store.decode(path.read_bytes(), late, again.now)
    assert [entry.record.name for entry in late.entries] == ["api"]


async def test_files_of_existing_servers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(
        json.dumps(
            {
                "a_records": [
                    {"name": "Alpha", "address": "0:0000.0000.0007"},
                    {"name": "bad", "address": "banana"},
                    {"name": "12", "address": "0:0000.0000.0007"},
                    {"address": "0:0000.0000.0007"},
                ],
                "n_records": [{"name": "lab", "network_id": 42}, {"name": "l", "network_id": "x"}],
                "s_records": None,
            }
        )
    )
    world = World(path)
    assert [entry.record.name for entry in world.server.zone.entries] == ["alpha", "lab"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a_records": 1}', b"[" * 100_000])
async def test_what_is_no_file_of_names_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument):
        World(path)
    assert path.read_bytes() == content


# Memory


def test_what_is_remembered_is_bounded() -> None:
    memory: Remembered[int, int | None] = Remembered(2)
    memory.put(1, None, 10.0)
    assert memory.get(1, 9.0) == (None,)
    assert memory.get(1, 10.0) is None
    for key in (1, 2, 3):
        memory.put(key, key, 10.0)
    assert [memory.get(key, 0.0) for key in (1, 2, 3)] == [None, (2,), (3,)]


def test_buckets_fill_again() -> None:
    buckets = Buckets(rate=1.0, burst=2.0, limit=10)
    assert [buckets.take(1, 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take(2, 0.0)
    assert [buckets.take(1, 1.5) for _ in range(2)] == [True, False]
    # A clock that goes back gives nothing.
    assert not buckets.take(1, 0.0)
