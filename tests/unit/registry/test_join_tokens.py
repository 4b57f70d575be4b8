"""Tokens to join with: who may replace them, and when they end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.registry import NOW, World, snapshot_of

from pilotstack.registry.protocol.errors import Code


@pytest.fixture
def world() -> World:
    world = World()
    world.join("owner", "a", "b", "c")
    world.create("owner", "ops", join_rule="token", token="first")
    world.create("owner", "club")
    return world


def join(world: World, name: str, token: str) -> dict[str, Any]:
    return world.about(name, "join_network", network_id=1, token=token)


def renew(world: World, name: str, token: str, ttl: int = 0, network: int = 1) -> dict[str, Any]:
    return world.about(name, "set_join_token", network_id=network, token=token, ttl=ttl)


def test_a_new_token_replaces_the_one_before(world: World) -> None:
    assert "error" not in join(world, "a", "first")
    assert renew(world, "owner", "second") == {
        "type": "set_join_token_ok",
        "network_id": 1,
    }
    assert join(world, "b", "first")["code"] == Code.JOIN_TOKEN
    assert "error" not in join(world, "b", "second")
    assert "second" not in str(snapshot_of(world.state))


def test_a_token_ends(world: World) -> None:
    assert renew(world, "owner", "second", ttl=3600)["expires"] == int(NOW) + 3600
    world.now += 3599
    assert "error" not in join(world, "a", "second")
    world.now += 1
    refused = join(world, "b", "second")
    assert refused["code"] == Code.JOIN_TOKEN
    assert "expired" in refused["error"]
    # Others are not told that there was one.
    assert "expired" not in join(world, "b", "guess")["error"]
    # Members stay, and a new token serves.
    assert world.state.members.get((1, world.ids["a"])) is not None
    renew(world, "owner", "third")
    assert "error" not in join(world, "b", "third")


def test_who_may_not(world: World) -> None:
    join(world, "a", "first")
    assert renew(world, "a", "mine")["code"] == Code.ROLE
    assert renew(world, "c", "mine")["code"] == Code.ROLE
    world.about("owner", "promote_member", network_id=1, target_node_id=world.ids["a"])
    assert "error" not in renew(world, "a", "mine")
    unsigned = {"type": "set_join_token", "node_id": world.ids["owner"], "network_id": 1}
    assert world.run(unsigned | {"token": "x"}).reply["code"] == Code.SIGNATURE


@pytest.mark.parametrize(("network", "token"), [(2, "x"), (1, ""), (1, "x" * 257), (0, "x")])
def test_what_makes_no_sense(world: World, network: int, token: str) -> None:
    assert renew(world, "owner", token, network=network)["code"] == Code.INVALID
    assert renew(world, "owner", "x", network=9)["code"] == Code.NETWORK_NOT_FOUND
