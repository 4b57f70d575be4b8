"""Who gets memory for what has not arrived whole, when there is little."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from pilotstack.services.budget import IDLE, Budget, Full, Hold


class Room:
    """A budget of 100 bytes, 40 for a peer, and the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.budget = Budget(100, 40, lambda: self.now)
        self.given_up: list[Hold] = []

    def hold(self, peer: int, count: int = 0) -> Hold:
        hold = self.budget.hold(peer, lambda: self.given_up.append(hold))
        hold.take(count)
        return hold


def test_a_peer_has_its_bound() -> None:
    room = Room()
    with room.hold(1, 30):
        second = room.hold(1, 10)
        with pytest.raises(Full):
            second.take(1)
        second.take(-5)
        second.take(5)
    assert room.budget.held == 10


def test_a_new_peer_gets_room_of_those_that_fill_it() -> None:
    room = Room()
    hostile = [room.hold(peer, 20) for peer in (1, 1, 2, 2)]
    hostile.append(room.hold(3, 20))
    new = room.hold(4, 1)
    # The one of the largest that moved the longest ago.
    assert room.given_up == [hostile[0]]
    new.take(19)
    # Nobody keeps what was given up.
    with pytest.raises(Full):
        hostile[0].take(1)
    assert room.budget.held == 80 + 20


def test_shares_shrink_as_peers_come() -> None:
    room = Room()
    for peer in range(50):
        room.hold(peer, 2)
    # As much as the others have, and no more.
    new = room.hold(100, 1)
    with pytest.raises(Full):
        new.take(2)
    assert len(room.given_up) == 1


def test_what_does_not_move_gives_way_to_who_holds_more() -> None:
    room = Room()
    first = room.hold(1, 5)
    slow = room.hold(2, 5)
    holds = [room.hold(peer, 30) for peer in (3, 4, 5)]
    room.now += IDLE - 1
    for hold in (slow, *holds):
        hold.take(-1)
        hold.take(1)
    with pytest.raises(Full):
        holds[0].take(5)
    room.now += 1
    holds[0].take(5)
    assert room.given_up == [first]
    with pytest.raises(Full):
        holds[0].take(5)


def test_what_is_complete_is_kept() -> None:
    room = Room()
    kept = [room.hold(peer, 40) for peer in (1, 2)]
    kept.append(room.hold(3, 20))
    for hold in kept:
        hold.keep()
    with pytest.raises(Full):
        room.hold(4, 1)
    for hold in kept:
        hold.__exit__()
    assert room.budget.held == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_is_right_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    room = Room()
    holds: list[Hold] = []
    for _ in range(1000):
        room.now += rng.choice((0, 0, 0, 3))
        if not holds or rng.random() < 0.2:
            holds.append(room.hold(rng.randrange(12)))
        hold = rng.choice(holds)
        with suppress(Full):
            hold.take(rng.randrange(15))
        if rng.random() < 0.3 and not hold.is_given_up:
            hold.take(-rng.randrange(hold.count + 1))
        if rng.random() < 0.1:
            hold.keep()
        if rng.random() < 0.2:
            hold.__exit__()
            holds.remove(hold)
        live = [each for each in holds if not each.is_given_up]
        assert room.budget.held == sum(each.count for each in live) <= 100
        assert all(not each.count for each in room.given_up)
    for hold in holds:
        hold.__exit__()
    assert room.budget.held == 0
    assert not room.budget._of
    assert not room.budget._holds
