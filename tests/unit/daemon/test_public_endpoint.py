"""How a node finds its endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel
import pytest

from pilotstack import _resolving
from pilotstack.daemon import public_endpoint
from pilotstack.daemon.public_endpoint import PublicEndpoint, pause_after

if TYPE_CHECKING:
    from pilotstack._core import Core

pytestmark = pytest.mark.anyio


class FakeCore:
    """Notes what it is told."""

    def __init__(self, host: str = "0.0.0.0") -> None:
        self.host = host
        self.asked: list[str] = []
        self.moves = 0

    def local_addr(self) -> tuple[str, int]:
        return self.host, 4000

    def set_beacons(self, beacons: list[str]) -> None:
        self.asked += beacons

    def on_moved(self) -> None:
        self.moves += 1


class Host:
    """One host's names and routes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.sources: dict[str, str] = {}
        monkeypatch.setattr(_resolving, "resolve", self._resolve)
        monkeypatch.setattr(_resolving, "source_towards", self.sources.get)

    async def _resolve(self, host: str) -> list[str]:
        await anyio.lowlevel.checkpoint()
        if host not in self.names:
            raise OSError(f"no such host: {host}")
        return self.names[host]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    for name in ("_ANSWER", "_RESOLVE_AGAIN", "_MOST", "DISCOVERY", "_BETWEEN_LOOKS"):
        monkeypatch.setattr(public_endpoint, name, 0.001)
    host = Host(monkeypatch)
    host.names["registry"] = ["10.0.0.1"]
    host.sources["10.0.0.1"] = "10.0.0.2"
    return host


def make(core: FakeCore, beacon: str, changes: list[str], fixed: str = "") -> PublicEndpoint:
    changed = lambda: changes.append("changed")  # noqa: E731
    return PublicEndpoint(cast("Core", core), beacon, fixed, lambda: "registry", changed)


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
    assert (place.endpoint, changes, core.asked) == ("198.51.100.1:4000", [], [])


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
        await until(lambda: len(core.asked) >= 3)
        tasks.cancel_scope.cancel()
    assert core.asked[:3] == ["192.0.2.1:9001", "192.0.2.2:9001", "192.0.2.1:9001"]


async def test_a_beacon_behind_a_name_that_moves_is_found(host: Host) -> None:
    host.names["beacon"] = ["192.0.2.1"]
    host.sources |= {"192.0.2.1": "10.0.0.2", "192.0.2.2": "10.0.0.2"}
    core = FakeCore()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make(core, "beacon:9001", []).ask)
        await until(lambda: core.asked)
        host.names["beacon"] = ["192.0.2.2"]
        await until(lambda: "192.0.2.2:9001" in core.asked)
        tasks.cancel_scope.cancel()


class FakeWatch:
    """Tells of a change for each that is put in."""

    def __init__(self) -> None:
        self.sender, self.receiver = anyio.create_memory_object_stream[None](10)

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def wait(self) -> None:
        await self.receiver.receive()


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
    watch.sender.close()
    watch.receiver.close()


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
    watch.sender.close()
    watch.receiver.close()


def test_pauses_double_after_some_failures_up_to_a_limit() -> None:
    pauses = [pause_after(failures, 0.25) for failures in range(20)]
    assert pauses[:4] == [0.25] * 4
    assert pauses[4:8] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == 15.0
