"""Limits on connections, and which one is evicted."""

from __future__ import annotations

from pilotstack._seats import Seat, Seats


def take(seats: Seats, source: str, evicted: list[str], name: str = "") -> Seat | None:
    seat = Seat(source, lambda: evicted.append(name or source))
    return seat if seats.enter(seat) else None


def test_seats_are_bounded_per_source_and_in_all() -> None:
    seats, evicted = Seats(5, 2), list[str]()
    taken = [take(seats, "far", evicted) for _ in range(2)]
    for seat in taken:
        assert seat is not None
        seats.prove(seat)
    assert take(seats, "far", evicted) is None
    exempt = [Seat("near", lambda: None) for _ in range(3)]
    assert all(seats.enter(seat, is_exempt=True) for seat in exempt)
    for seat in exempt:
        seats.prove(seat)
    assert take(seats, "other", evicted) is None
    seats.leave(exempt[0])
    seats.leave(exempt[0])
    assert seats.total == 4
    assert take(seats, "other", evicted) is not None
    assert evicted == []


def test_the_oldest_unproven_seat_of_the_largest_source_is_evicted() -> None:
    seats, evicted = Seats(6), list[str]()
    for number in range(4):
        take(seats, "greedy", evicted, f"greedy-{number}")
    modest = take(seats, "modest", evicted)
    proven = take(seats, "proven", evicted)
    assert modest is not None
    assert proven is not None
    seats.prove(proven)
    for _ in range(3):
        assert take(seats, "new", evicted) is not None
    # Ties go to whoever came first; a proven one stays.
    assert evicted[:2] == ["greedy-0", "greedy-1"]
    assert "proven" not in evicted
    assert seats.total == 6
    assert seats.evicted == 3


def test_a_source_over_its_limit_evicts_its_own_seat() -> None:
    seats, evicted = Seats(10, 2), list[str]()
    take(seats, "other", evicted)
    for number in range(4):
        take(seats, "greedy", evicted, f"greedy-{number}")
    assert evicted == ["greedy-0", "greedy-1"]
    assert seats.total == 3


def test_an_evicted_seat_is_released_once() -> None:
    seats, evicted = Seats(1), list[str]()
    first = take(seats, "a", evicted)
    second = take(seats, "b", evicted)
    assert first is not None
    assert second is not None
    seats.leave(first)
    seats.prove(first)
    assert seats.total == 1
    seats.leave(second)
    assert seats.total == 0


def test_a_source_with_far_more_proven_seats_loses_one() -> None:
    seats, evicted = Seats(40), list[str]()
    for number in range(20):
        for source in ("first", "second"):
            seat = take(seats, source, evicted, f"{source}-{number}")
            assert seat is not None
            seats.prove(seat)
    for _ in range(4):
        seat = take(seats, "new", evicted)
        assert seat is not None
        seats.prove(seat)
    assert evicted == ["first-0", "second-0", "first-1", "second-1"]
    assert seats.total == 40
    # With a fifth they would not have four times as many.
    assert take(seats, "new", evicted) is None


def test_proven_seats_of_this_host_are_not_evicted() -> None:
    seats, evicted = Seats(20), list[str]()
    for _ in range(20):
        seat = Seat("near", lambda: evicted.append("near"))
        assert seats.enter(seat, is_exempt=True)
        seats.prove(seat)
    assert take(seats, "far", evicted) is None
    assert evicted == []


def test_a_withdrawn_seat_can_be_evicted_again() -> None:
    seats, evicted = Seats(2), list[str]()
    for name in ("a", "b"):
        seat = take(seats, name, evicted)
        assert seat is not None
        seats.prove(seat)
        seats.prove(seat)
        seats.withdraw(seat)
    assert take(seats, "c", evicted) is not None
    assert evicted == ["a"]
    assert seat is not None
    seats.withdraw(seat)
    seats.leave(seat)
    assert seats.total == 1
