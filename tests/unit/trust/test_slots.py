"""Who may talk on port 444 at once."""

from __future__ import annotations

from pilotstack.trust.slots import Slot, Slots


def enter(slots: Slots, peer: int, evicted: list[int]) -> Slot | None:
    slot = Slot(peer, lambda: evicted.append(peer))
    return slot if slots.enter(slot) else None


def test_a_peer_has_a_share() -> None:
    slots, evicted = Slots(8, 2), list[int]()
    first = enter(slots, 1, evicted)
    assert enter(slots, 1, evicted) is not None
    assert enter(slots, 1, evicted) is None
    assert enter(slots, 2, evicted) is not None
    assert first is not None
    slots.leave(first)
    slots.leave(first)
    assert slots.total == 2
    assert enter(slots, 1, evicted) is not None


def test_who_has_most_gives_one_up_and_a_message_that_came_stays() -> None:
    slots, evicted = Slots(4, 3), list[int]()
    held = [enter(slots, 1, evicted) for _ in range(3)]
    enter(slots, 2, evicted)
    assert held[0] is not None
    slots.hold(held[0])
    assert enter(slots, 3, evicted) is not None
    assert enter(slots, 4, evicted) is not None
    assert evicted == [1, 1]
    assert slots.total == 4
    # The one that was held is still there.
    slots.leave(held[0])
    assert slots.total == 3


def test_equals_do_not_push_each_other_out() -> None:
    slots, evicted = Slots(2, 2), list[int]()
    assert enter(slots, 1, evicted) is not None
    assert enter(slots, 2, evicted) is not None
    assert enter(slots, 1, evicted) is None
    assert evicted == []
