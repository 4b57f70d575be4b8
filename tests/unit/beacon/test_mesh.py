"""How a beacon keeps informed of the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest

from pilotstack.beacon import parse_ports
from pilotstack.beacon.mesh import Mesh
from pilotstack.errors import ConnectionFailed, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pilotstack.beacon import Beacon

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A beacon and a registry that do what the test says."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.asked: list[tuple[int, str]] = []
        self.listed: dict[int, str] | None = {}
        self.mesh = Mesh(cast("Beacon", self), self, beacon_id=1, address="192.0.2.1:9001")

    def set_beacons(self, addresses: Iterable[str]) -> None:
        self.told.append(list(addresses))

    async def exchange(self, beacon_id: int, address: str) -> Mapping[int, str]:
        self.asked.append((beacon_id, address))
        if self.listed is None:
            raise ConnectionFailed("no registry answers")
        return self.listed


async def test_a_beacon_announces_itself_and_learns_of_the_others() -> None:
    world = World()
    world.listed = {1: "192.0.2.1:9001", 3: "[2001:db8::3]:9001", 2: "192.0.2.2:9001"}
    await world.mesh.turn()
    assert world.asked == [(1, "192.0.2.1:9001")]
    assert world.told == [["192.0.2.2:9001", "[2001:db8::3]:9001"]]


async def test_nobody_is_told_of_itself_under_another_number() -> None:
    world = World()
    world.listed = {7: "192.0.2.1:9001"}
    await world.mesh.turn()
    assert world.told == [[]]


async def test_addresses_that_are_none_are_skipped() -> None:
    world = World()
    world.listed = {2: "192.0.2.2", 3: "192.0.2.3:99999", 4: "under_score/:1", 5: "192.0.2.5:1"}
    await world.mesh.turn()
    assert world.told == [["192.0.2.5:1"]]


async def test_the_last_list_outlives_the_registry_for_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    world = World()
    world.listed = {2: "192.0.2.2:9001"}
    await world.mesh.turn()
    world.listed = None
    for clock[0] in (30.0, 3600.0):
        await world.mesh.turn()
        assert world.told == [["192.0.2.2:9001"]]
        assert world.mesh.problem == "no registry answers"
    clock[0] = 3601.0
    await world.mesh.turn()
    assert world.told[-1] == []
    world.listed = {2: "192.0.2.2:9001"}
    await world.mesh.turn()
    assert (world.told[-1], world.mesh.problem) == (["192.0.2.2:9001"], "")


def test_ports_for_proofs() -> None:
    assert parse_ports("") == (0,) * 16
    assert parse_ports("9101") == (9101,)
    assert parse_ports("9101-9103") == (9101, 9102, 9103)
    for text in ("9103-9101", "0-5", "1-65536", "a-b", "9101-", "9101-9200", "-1"):
        with pytest.raises(InvalidArgument):
            parse_ports(text)
