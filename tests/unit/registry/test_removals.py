"""Who is told that a member was removed, and how much may wait."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World

from pilotstack.registry.model.source import Source
from pilotstack.registry.model.transient import MAX_TAKEN, Removals
from pilotstack.registry.rules.trust import waiting_for


@pytest.fixture
def world() -> World:
    world = World()
    world.join("owner", "member", "leaver", "stranger")
    return world


def network_of(world: World) -> int:
    network_id = world.create("owner", "ops")
    for name in ("member", "leaver"):
        assert "error" not in world.about(name, "join_network", network_id=network_id)
    return network_id


def removals(world: World, name: str, **members: Any) -> list[tuple[int, int]]:
    reply = world.about(name, "poll_handshakes", wait=0, **members)
    return [(row["network_id"], row["node_id"]) for row in reply.get("removals", ())]


def test_members_are_told_of_a_kick_once(world: World) -> None:
    network_id, gone = network_of(world), world.ids["leaver"]
    assert not removals(world, "member")
    answer = world.run(
        world.sign(
            "owner",
            {
                "type": "kick_member",
                "node_id": world.ids["owner"],
                "network_id": network_id,
                "target_node_id": gone,
            },
        ),
        world.source("owner"),
    )
    assert set(answer.wakes) == {world.ids[name] for name in ("owner", "member", "leaver")}
    assert waiting_for(world.state, world.ids["member"])
    for name in ("owner", "member", "leaver"):
        assert removals(world, name) == [(network_id, gone)]
        assert not removals(world, name)
    assert not removals(world, "stranger")


def test_members_are_told_of_who_leaves_and_of_the_end(world: World) -> None:
    network_id = network_of(world)
    world.about("leaver", "leave_network", network_id=network_id)
    assert removals(world, "member") == [(network_id, world.ids["leaver"])]
    assert removals(world, "owner") == [(network_id, world.ids["leaver"])]
    world.about("owner", "delete_network", network_id=network_id)
    assert removals(world, "member") == [(network_id, world.ids["member"])]


def test_old_clients_and_those_that_are_away_are_told_nothing(world: World) -> None:
    network_id = network_of(world)
    world.state.left(world.source("member"))
    world.about("leaver", "leave_network", network_id=network_id)
    assert "removals" not in world.about("owner", "poll_handshakes")
    assert not removals(world, "member", source=Source("192.0.2.7", 1))
    # What was not fetched is forgotten with the connection.
    world.state.left(world.source("owner"))
    assert not removals(world, "owner", source=Source("192.0.2.7", 2))


def test_what_waits_is_bounded() -> None:
    some = Removals(limit=MAX_TAKEN + 10)
    for node in range(2 * MAX_TAKEN):
        some.note(1, 5, node)
        some.note(2, 5, node)
    first, second = some.take(1), some.take(2)
    assert len(first) <= MAX_TAKEN
    assert len(first) + len(second) == MAX_TAKEN + 10
    assert not some.waits_for(1)
    some.note(3, 5, 1)
    some.note(3, 5, 1)
    assert some.take(3) == ((5, 1),)
    assert not some.take(3)
