"""Keys that the operator keeps off the network."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import World, snapshot_of

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.storage import snapshot


@pytest.fixture
def world() -> World:
    world = World(Policy(admin_token="root"))
    world.join("a", "b", "c")
    return world


def order(world: World, kind: str, name: str, token: str = "root") -> dict[str, Any]:
    request = {"type": kind, "node_id": world.ids[name], "admin_token": token}
    return world.run(request).reply


def told(world: World, name: str) -> list[dict[str, int]]:
    rows: list[dict[str, int]] = world.about(name, "poll_handshakes", wait=0).get("removals", [])
    return rows


def test_a_banned_key_is_refused_and_everybody_is_told(world: World) -> None:
    world.register("c", hostname="carol")
    world.trust("a", "c")
    world.trust("c", "a")
    banned = world.ids["c"]
    assert order(world, "ban_node", "c") == {
        "type": "ban_node_ok",
        "node_id": banned,
        "banned": True,
    }
    for name in ("a", "b"):
        assert told(world, name) == [{"network_id": 0, "node_id": banned}]
        assert not told(world, name)
    assert not world.state.is_trusted(world.ids["a"], banned)
    assert world.register("c", ephemeral=True)["code"] == Code.DENIED
    assert world.register("c", sign=False)["code"] == Code.DENIED
    assert world.about("c", "heartbeat")["code"] == Code.NODE_NOT_FOUND
    assert world.ask("a", "lookup", node_id=banned, sign=False)["code"] == Code.NODE_NOT_FOUND
    assert world.register("b", hostname="carol")["hostname"] == "carol"


def test_a_ban_outlives_a_restart_and_ends_by_order(world: World) -> None:
    order(world, "ban_node", "c")
    world.state = snapshot.load(snapshot_of(world.state), world.now)
    world.state.policy = Policy(admin_token="root")
    assert world.register("c")["code"] == Code.DENIED
    assert order(world, "unban_node", "c")["banned"] is False
    assert world.register("c")["node_id"] == world.ids["c"]


def test_who_may_not(world: World) -> None:
    for kind in ("ban_node", "unban_node"):
        assert order(world, kind, "c", token="guess")["code"] == Code.ADMIN_TOKEN
        assert order(world, kind, "c", token="")["code"] == Code.ADMIN_TOKEN
        unknown = {"type": kind, "node_id": 99, "admin_token": "root"}
        assert world.run(unknown, Source("192.0.2.8", 1)).reply["code"] == Code.NODE_NOT_FOUND
    assert "error" not in world.register("c")


def test_without_an_admin_token_nobody_may() -> None:
    world = World()
    world.join("a")
    assert order(world, "ban_node", "a", token="")["code"] == Code.ADMIN_TOKEN
