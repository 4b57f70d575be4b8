"""How a node finds its endpoint."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from pilotstack import _interfaces, _resolving
from pilotstack.daemon import public_endpoint
from pilotstack.daemon.beacons import Beacons, parse_beacons
from pilotstack.daemon.candidates import Candidates, Kind
from pilotstack.daemon.public_endpoint import Announced, Changes, PublicEndpoint, pause_after

pytestmark = pytest.mark.anyio


class FakeCore:
    """Notes what it is told."""

    def __init__(self, host: str = "0.0.0.0") -> None:
        self.host = host
        self.asked: list[list[str]] = []
        self.moves = 0
        self.candidates: list[tuple[Kind, str]] = []

    def local_addr(self) -> tuple[str, int]:
        return self.host, 4000

    def set_beacons(self, beacons: list[str]) -> None:
        self.asked.append(beacons)

    def set_candidates(self, candidates: list[tuple[Kind, str]]) -> None:
        self.candidates = candidates

    def on_moved(self) -> None:
        self.moves += 1


class Host:
    """One host's names and routes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.sources: dict[str, str] = {}
        self.addresses: tuple[str, ...] = ()
        monkeypatch.setattr(_interfaces, "host_addresses", self._addresses)
        monkeypatch.setattr(_resolving, "resolve", self._resolve)
        monkeypatch.setattr(_resolving, "source_towards", self.sources.get)

    def _addresses(self, **_: object) -> tuple[str, ...]:
        return self.addresses

    async def _resolve(self, host: str) -> list[str]:
        await anyio.lowlevel.checkpoint()
        if host not in self.names:
            raise OSError(f"no such host: {host}")
        return self.names[host]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    for name in ("_ANSWER", "_RESOLVE_AGAIN", "_MOST", "DISCOVERY", "_SOON", "_LATEST"):
        monkeypatch.setattr(public_endpoint, name, 0.001)
    host = Host(monkeypatch)
    host.names["registry"] = ["10.0.0.1"]
    host.sources["10.0.0.1"] = "10.0.0.2"
    return host


def asks_for(core: FakeCore, *beacons: str) -> bool:
    return list(beacons) in core.asked


def make(
    core: FakeCore,
    beacon: str,
    changes: list[str],
    fixed: str = "",
    *,
    is_relay_only: bool = False,
) -> PublicEndpoint:
    async def no_list() -> list[str]:
        await anyio.lowlevel.checkpoint()
        return []

    registry = lambda: "registry"  # noqa: E731
    return PublicEndpoint(
        core,
        Beacons(parse_beacons(beacon), no_list, registry, b"key", None),
        Candidates(core.local_addr(), core.set_candidates, is_hidden=is_relay_only),
        registry,
        Changes(lambda: changes.append("moved"), lambda: changes.append("renewed")),
        fixed=fixed,
        is_relay_only=is_relay_only,
    )


async def until(condition: object) -> None:
    assert callable(condition)
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_no_unspecified_address_is_announced_without_a_beacon(host: Host) -> None:
    place = make(FakeCore(), "", [])
    assert await place.find() == "10.0.0.2:4000"
    host.names["registry"] = ["fd77::1"]
    host.sources["fd77::1"] = "fd77::2"
    assert await make(FakeCore("::"), "", []).find() == "[fd77::2]:4000"


async def test_an_unknown_endpoint_is_not_announced(host: Host) -> None:
    host.sources.clear()
    assert await make(FakeCore(), "", []).find() == ""


async def test_an_address_to_listen_on_is_the_endpoint(host: Host) -> None:
    assert await make(FakeCore("127.0.0.1"), "", []).find() == "127.0.0.1:4000"


async def test_a_configured_endpoint_takes_precedence(host: Host) -> None:
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "beacon:9001", changes, fixed="198.51.100.1:4000")
    assert await place.find() == "198.51.100.1:4000"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    place.heard("203.0.113.1:5")
    assert (place.endpoint, changes) == ("198.51.100.1:4000", [])


async def test_a_node_with_a_configured_endpoint_has_a_beacon_that_relays(host: Host) -> None:
    host.names["beacon"] = ["192.0.2.1"]
    host.sources["192.0.2.1"] = "10.0.0.2"
    core = FakeCore()
    place = make(core, "beacon:9001", [], fixed="198.51.100.1:4000")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: asks_for(core, "192.0.2.1:9001"))
        tasks.cancel_scope.cancel()


async def test_a_late_beacon_is_retried_until_it_answers(host: Host) -> None:
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "beacon:9001", changes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        assert await place.find() == "10.0.0.2:4000", "the best guess meanwhile"
        host.names["beacon"] = ["192.0.2.1"]
        host.sources["192.0.2.1"] = "10.0.0.2"
        await until(lambda: len(core.asked) > 3)
        place.heard("203.0.113.1:4000")
        await until(lambda: changes)
        tasks.cancel_scope.cancel()
    assert place.endpoint == "203.0.113.1:4000"


async def test_an_answer_at_the_start_is_no_move(host: Host) -> None:
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "beacon:9001", changes)
    place.heard("[::ffff:203.0.113.1]:4000")
    assert await place.find() == "203.0.113.1:4000"
    place.heard("203.0.113.1:4000")
    assert (changes, core.moves) == ([], 0)


async def test_addresses_without_a_route_or_of_the_wrong_family_are_not_asked(host: Host) -> None:
    host.names["beacon"] = ["192.0.2.9", "fd77::1", "192.0.2.1", "192.0.2.2"]
    host.sources |= {"fd77::1": "fd77::2", "192.0.2.1": "10.0.0.2", "192.0.2.2": "10.0.0.2"}
    core = FakeCore("0.0.0.0")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make(core, "beacon:9001", []).ask)
        await until(lambda: core.asked)
        tasks.cancel_scope.cancel()
    assert core.asked[0] == ["192.0.2.1:9001", "192.0.2.2:9001"]


async def test_all_beacons_are_asked_in_the_order_of_preference(host: Host) -> None:
    host.names |= {"one": ["192.0.2.9"], "two": ["192.0.2.8"]}
    host.sources |= {"192.0.2.9": "10.0.0.2", "192.0.2.8": "10.0.0.2"}
    core = FakeCore()
    place = make(core, "one:9001,gone:1,two:9002", [])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: asks_for(core, "192.0.2.9:9001", "192.0.2.8:9002"))
        place.heard("203.0.113.1:4000")
        await anyio.wait_all_tasks_blocked()
        asked = len(core.asked)
        # Other beacons than before, and the same ones.
        place.beacons_changed()
        await anyio.wait_all_tasks_blocked()
        assert len(core.asked) == asked
        host.names["gone"] = ["192.0.2.8"]
        place.beacons_changed()
        await until(lambda: asks_for(core, "192.0.2.9:9001", "192.0.2.8:1", "192.0.2.8:9002"))
        tasks.cancel_scope.cancel()


async def test_beacons_are_asked_again_for_another_id(host: Host) -> None:
    host.names["one"] = ["192.0.2.9"]
    host.sources["192.0.2.9"] = "10.0.0.2"
    core = FakeCore()
    place = make(core, "one:9001", [])
    place.tell_again()
    assert not core.asked
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: asks_for(core, "192.0.2.9:9001"))
        place.heard("203.0.113.1:4000")
        await anyio.wait_all_tasks_blocked()
        asked = len(core.asked)
        place.tell_again()
        assert core.asked[asked:] == [["192.0.2.9:9001"]]
        tasks.cancel_scope.cancel()


async def test_a_beacon_behind_a_name_that_moves_is_found(host: Host) -> None:
    host.names["beacon"] = ["192.0.2.1"]
    host.sources |= {"192.0.2.1": "10.0.0.2", "192.0.2.2": "10.0.0.2"}
    core = FakeCore()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make(core, "beacon:9001", []).ask)
        await until(lambda: core.asked)
        host.names["beacon"] = ["192.0.2.2"]
        await until(lambda: asks_for(core, "192.0.2.2:9001"))
        tasks.cancel_scope.cancel()


class FakeWatch:
    """Tells of a change for each that is put in."""

    def __init__(self) -> None:
        self.sender, self.receiver = anyio.create_memory_object_stream[bool | None](10)

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def wait(self) -> bool:
        return bool(await self.receiver.receive())

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


async def test_an_address_change_is_announced_to_peers_and_registry(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch()
    monkeypatch.setattr(public_endpoint, "AddressWatch", lambda: watch)
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "", changes)
    await place.find()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.watch)
        # A change that concerns us not, and a moment without any address.
        await watch.sender.send(None)
        host.sources.clear()
        await watch.sender.send(None)
        await anyio.wait_all_tasks_blocked()
        assert (core.moves, changes) == (0, [])
        host.sources["10.0.0.1"] = "10.0.0.77"
        await watch.sender.send(None)
        await until(lambda: changes)
        tasks.cancel_scope.cancel()
    assert (core.moves, place.endpoint) == (1, "10.0.0.77:4000")
    assert changes == ["moved"]
    watch.close()


async def test_after_a_move_the_beacon_is_asked_at_once_and_not_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch()
    monkeypatch.setattr(public_endpoint, "AddressWatch", lambda: watch)
    host.names["beacon"] = ["192.0.2.1"]
    host.sources["192.0.2.1"] = "10.0.0.2"
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "beacon:9001", changes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: core.asked)
        place.heard("203.0.113.1:4000")
        await place.find()
        await until(lambda: tasks and place._answered.is_set())
        tasks.start_soon(place.watch)
        host.sources |= {"10.0.0.1": "10.0.0.77", "192.0.2.1": "10.0.0.77"}
        asked = len(core.asked)
        await watch.sender.send(None)
        await until(lambda: len(core.asked) > asked)
        await until(lambda: changes)
        tasks.cancel_scope.cancel()
    assert place.endpoint == "10.0.0.77:4000"
    watch.close()


async def test_the_core_is_told_of_a_move_before_a_name_is_resolved(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch()
    monkeypatch.setattr(public_endpoint, "AddressWatch", lambda: watch)
    host.names["beacon"] = ["192.0.2.1"]
    host.sources["192.0.2.1"] = "10.0.0.2"
    core = FakeCore()
    place = make(core, "beacon:9001", [])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: core.asked)
        place.heard("203.0.113.1:4000")
        await place.find()
        tasks.start_soon(place.watch)

        async def hang(_: str) -> list[str]:
            await anyio.sleep_forever()
            return []

        monkeypatch.setattr(_resolving, "resolve", hang)
        host.sources["192.0.2.1"] = "10.0.0.77"
        host.addresses = ("10.0.0.77",)
        asked = len(core.asked)
        await watch.sender.send(None)
        await until(lambda: core.moves)
        assert core.asked[asked:] == [["192.0.2.1:9001"]]
        assert core.candidates == [("host", "10.0.0.77:4000")]
        tasks.cancel_scope.cancel()
    watch.close()


async def test_another_address_that_nothing_is_sent_from_is_registered(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FakeWatch()
    monkeypatch.setattr(public_endpoint, "AddressWatch", lambda: watch)
    changes: list[str] = []
    core = FakeCore("::")
    place = make(core, "", changes)
    await place.find()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.watch)
        host.addresses = ("10.0.0.2", "2001:db8::2")
        await watch.sender.send(None)
        await until(lambda: changes)
        tasks.cancel_scope.cancel()
    assert (changes, core.moves) == (["renewed"], 0)
    assert place.announced == Announced(
        "10.0.0.2:4000", ("10.0.0.2:4000", "[2001:db8::2]:4000"), relay_only=False
    )
    watch.close()


async def test_a_host_that_was_suspended_has_moved(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    del host
    watch = FakeWatch()
    monkeypatch.setattr(public_endpoint, "AddressWatch", lambda: watch)
    changes: list[str] = []
    core = FakeCore()
    place = make(core, "", changes)
    await place.find()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.watch)
        await watch.sender.send(True)
        await until(lambda: changes)
        tasks.cancel_scope.cancel()
    assert (changes, core.moves) == (["moved"], 1)
    watch.close()


async def test_a_node_that_takes_relayed_frames_only_registers_its_beacon(host: Host) -> None:
    host.names["beacon"] = ["192.0.2.1"]
    host.sources["192.0.2.1"] = "10.0.0.2"
    host.addresses = ("10.0.0.2",)
    core = FakeCore()
    place = make(core, "beacon:9001", [], is_relay_only=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.ask)
        await until(lambda: core.asked)
        place.heard("203.0.113.1:4000")
        await place.find()
        tasks.cancel_scope.cancel()
    assert place.announced == Announced("192.0.2.1:9001", (), relay_only=True)
    assert core.candidates == []


def test_pauses_double_after_some_failures_up_to_a_limit() -> None:
    pauses = [pause_after(failures, 0.25) for failures in range(20)]
    assert pauses[:4] == [0.25] * 4
    assert pauses[4:8] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == 15.0
