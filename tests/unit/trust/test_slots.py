"""Admission limits of port 444."""

from __future__ import annotations

from pilotstack.trust.slots import Slot, Slots


def enter(slots: Slots, peer: int, evicted: list[int]) -> Slot | None:
    slot = Slot(peer, lambda: evicted.append(peer))
    return slot if slots.enter(slot) else None


def test_streams_per_peer_are_limited() -> None:
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


def test_the_peer_with_most_streams_is_evicted_unless_its_message_is_complete() -> None:
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


def test_peers_with_equal_counts_do_not_evict_each_other() -> None:
    slots, evicted = Slots(2, 2), list[int]()
    assert enter(slots, 1, evicted) is not None
    assert enter(slots, 2, evicted) is not None
    assert enter(slots, 1, evicted) is None
    assert evicted == []
