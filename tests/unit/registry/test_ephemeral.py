"""Nodes that leave nothing behind when they stop, or fall silent."""

from __future__ import annotations

import pytest
from tests.support.registry import World, snapshot_of

from pilotstack.registry.rules.reaper import (
    EPHEMERAL_SILENT,
    EPHEMERAL_TTL,
    PASS_EVERY,
    reap,
)


@pytest.fixture
def world() -> World:
    world = World()
    world.join("owner")
    return world


def settle(world: World, name: str = "job") -> None:
    """A node with a name, a membership, a trust, an invitation, and requests both ways."""
    world.register(name, ephemeral=True, hostname=name)
    network_id = world.create("owner", "ops")
    world.about(name, "join_network", network_id=network_id)
    world.trust(name, "owner")
    world.trust("owner", name)
    world.about(name, "set_visibility", public=True)
    club = world.create("owner", "club", join_rule="invite")
    world.ask(
        "owner",
        "invite_to_network",
        inviter_id=world.ids["owner"],
        network_id=club,
        target_node_id=world.ids[name],
    )
    world.request("owner", name)


def nothing_of(world: World, node_id: int) -> bool:
    """Whether no table has rows about a node."""
    tables = ("members", "claims", "requests", "responses", "invites", "rotations")
    groups = [world.state.tables[table].groups for table in tables]
    return not any(
        node_id in rows or (table != "members" and first == node_id and rows)
        for table, group in zip(tables, groups, strict=True)
        for first, rows in group.items()
    )


def pass_time(world: World, seconds: float) -> list[int]:
    """Sweeps each second; the ids of nodes that were deleted."""
    gone: list[int] = []
    for _ in range(int(seconds)):
        world.now += 1
        changes = reap(world.state, world.now)
        gone += [int(str(change.key)) for change in changes if change.table == "nodes"]
    return gone


def test_nothing_is_left_of_a_node_that_stops(world: World) -> None:
    before = snapshot_of(world.state)["nodes"]
    settle(world)
    job = world.ids["job"]
    assert not world.about("owner", "poll_handshakes", wait=0).get("removals")
    assert "error" not in world.about("job", "deregister")
    assert world.state.row("nodes", job) is None
    assert snapshot_of(world.state)["nodes"].keys() == before.keys()
    assert nothing_of(world, job)
    assert not world.state.is_trusted(world.ids["owner"], job)
    reply = world.about("owner", "poll_handshakes", wait=0)
    assert [row["node_id"] for row in reply["removals"]] == [job]
    # Name and id: the first is free, the second is not used again.
    assert world.register("next", hostname="job")["hostname"] == "job"
    assert world.ids["next"] > job
    assert world.register("job", ephemeral=True)["node_id"] > world.ids["next"]


def test_a_node_without_the_flag_keeps_everything(world: World) -> None:
    world.register("lasting")
    assert world.register("lasting", ephemeral=True)["node_id"] == world.ids["lasting"]
    world.about("lasting", "deregister")
    assert world.state.row("nodes", world.ids["lasting"]) is not None
    # And one that is started again without it becomes one that lasts.
    world.register("job", ephemeral=True)
    world.register("job")
    world.about("job", "deregister")
    assert world.state.row("nodes", world.ids["job"]) is not None


def test_one_that_is_killed_is_deleted_soon(world: World) -> None:
    settle(world)
    job = world.ids["job"]
    world.state.left(world.source("job"))
    assert pass_time(world, EPHEMERAL_TTL - 1) == []
    assert pass_time(world, PASS_EVERY + 2) == [job]
    assert nothing_of(world, job)
    assert world.state.row("nodes", world.ids["owner"]) is not None


def test_one_whose_connection_hangs_is_deleted_later(world: World) -> None:
    settle(world)
    assert pass_time(world, EPHEMERAL_SILENT - 1) == []
    assert pass_time(world, PASS_EVERY + 2) == [world.ids["job"]]


def test_heartbeats_keep_it(world: World) -> None:
    settle(world)
    for _ in range(10):
        world.about("job", "heartbeat")
        assert pass_time(world, 30) == []


def test_after_a_standstill_there_is_a_period_of_grace(world: World) -> None:
    settle(world)
    world.state.left(world.source("job"))
    world.now += 3600
    assert pass_time(world, EPHEMERAL_TTL - 1) == []
    assert pass_time(world, PASS_EVERY + 2) == [world.ids["job"]]


def test_the_flag_is_stored(world: World) -> None:
    world.register("job", ephemeral=True)
    rows = snapshot_of(world.state)["nodes"]
    assert [row.get("ephemeral", False) for row in rows.values()] == [False, True]
