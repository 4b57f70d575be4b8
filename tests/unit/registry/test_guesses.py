"""Guesses of tokens and of recovery secrets are limited, cheap and logged."""

from __future__ import annotations

import pytest
from tests.support.registry import World, key_text

from pilotstack.registry.model import auth, guesses
from pilotstack.registry.model.guesses import WRONG_BURST, Guesses
from pilotstack.registry.model.source import Source


def test_wrong_tokens_are_limited_cheap_and_logged() -> None:
    world = World()
    world.join("a")
    made = {"join_rule": "token", "token": "right", "network_admin_token": "secret"}
    network = world.create("a", "n", **made)
    guess = {"type": "kick_member", "node_id": 99, "network_id": network, "admin_token": "no"}
    source = Source("203.0.113.5", 1)
    first = world.run(guess, source)
    assert first.reply["error"] == "invalid admin token"
    assert (first.wrong_secrets, first.delay > 0) == (("admin_token",), True)
    replies = [world.run(guess, source).reply["error"] for _ in range(100)]
    assert replies.count("invalid admin token") == WRONG_BURST - 1
    assert all("rate limited: too many wrong tokens" in text for text in replies[-80:])
    # Who guesses too much does not even learn when he is right.
    right = guess | {"admin_token": "secret", "target_node_id": 1}
    assert "rate limited" in world.run(right, source).reply["error"]
    assert "rate limited" not in world.run(right, Source("203.0.113.6", 1)).reply["error"]
    world.now += 11
    assert "rate limited" not in world.run(right, source).reply["error"]
    join = {"network_id": network, "token": "wrong"}
    texts = [world.about("a", "join_network", **join)["error"] for _ in range(30)]
    assert "rate limited" in texts[-1]


def test_guesses_of_the_admin_token_are_limited() -> None:
    world = World()
    world.state.policy = type(world.state.policy)(admin_token="root")
    world.join("a")
    source = Source("203.0.113.5", 1)
    request = {"type": "set_hostname", "node_id": 1, "hostname": "x", "admin_token": "no"}
    texts = [world.run(request, source).reply["error"] for _ in range(30)]
    assert "rate limited" in texts[-1]
    assert "error" not in world.about("a", "set_hostname", hostname="x", admin_token="root")


def test_guesses_of_recovery_secrets_are_limited() -> None:
    world = World()
    world.join("a")
    world.about("a", "enroll_recovery", commitment="0" * 64)
    request = {"type": "recover_identity", "node_id": 1, "new_public_key": key_text("m")}
    source = Source("203.0.113.5", 1)
    replies = [
        world.run(request | {"recovery_secret": f"s{number}"}, source).reply["error"]
        for number in range(30)
    ]
    assert replies[0] == "recovery denied: invalid recovery secret"
    assert "rate limited" in replies[-1]


def test_a_right_token_costs_one_hash_and_a_wrong_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = auth.matches_token

    def matches_token(given: str, stored: str) -> bool:
        hashed.append(given)
        return real(given, stored)

    monkeypatch.setattr(auth, "matches_token", matches_token)
    stored = auth.hash_token("right", bytes(16))
    tried = Guesses()
    assert [tried.matches(token, stored, "192.0.2.1", 0.0) for token in ("no", "right")] == [
        False,
        True,
    ]
    assert len(hashed) == 2
    for token, is_right in (("no", False), ("right", True), ("", False)):
        assert tried.matches(token, stored, "192.0.2.1", 0.0) is is_right
    assert len(hashed) == 2
    # What is not known yet costs all sources together no more than a share.
    others = [auth.hash_token("x", number.to_bytes(16)) for number in range(300)]
    for number in range(int(guesses.ALL_BURST) - 2):
        tried.matches("no", others[number], f"192.0.{number % 200}.1", 0.0)
    with pytest.raises(guesses.TooManyGuesses):
        tried.matches("no", others[-1], "203.0.113.1", 0.0)
    assert len(hashed) == guesses.ALL_BURST
