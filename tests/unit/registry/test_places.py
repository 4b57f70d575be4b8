"""Who is connected, and who gives way."""

from __future__ import annotations

from pilotstack.registry.places import Places, Seat


def take(places: Places, source: str, evicted: list[str], name: str = "") -> Seat | None:
    seat = Seat(source, lambda: evicted.append(name or source))
    return seat if places.enter(seat) else None


def test_seats_are_few_for_a_source_and_bounded_for_all() -> None:
    places, evicted = Places(5, 2), list[str]()
    seats = [take(places, "far", evicted) for _ in range(2)]
    for seat in seats:
        assert seat is not None
        places.prove(seat)
    assert take(places, "far", evicted) is None
    exempt = [Seat("near", lambda: None) for _ in range(3)]
    assert all(places.enter(seat, is_exempt=True) for seat in exempt)
    for seat in exempt:
        places.prove(seat)
    assert take(places, "other", evicted) is None
    places.leave(exempt[0])
    places.leave(exempt[0])
    assert places.total == 4
    assert take(places, "other", evicted) is not None
    assert evicted == []


def test_the_oldest_unproven_seat_of_the_greediest_source_is_given_up() -> None:
    places, evicted = Places(6), list[str]()
    for number in range(4):
        take(places, "greedy", evicted, f"greedy-{number}")
    modest = take(places, "modest", evicted)
    proven = take(places, "proven", evicted)
    assert modest is not None
    assert proven is not None
    places.prove(proven)
    for _ in range(3):
        assert take(places, "new", evicted) is not None
    # Ties go to whoever came first; a proven one stays.
    assert evicted[:2] == ["greedy-0", "greedy-1"]
    assert "proven" not in evicted
    assert places.total == 6
    assert places.evicted == 3


def test_a_source_over_its_limit_loses_its_own() -> None:
    places, evicted = Places(10, 2), list[str]()
    take(places, "other", evicted)
    for number in range(4):
        take(places, "greedy", evicted, f"greedy-{number}")
    assert evicted == ["greedy-0", "greedy-1"]
    assert places.total == 3


def test_what_was_given_up_is_not_given_back_twice() -> None:
    places, evicted = Places(1), list[str]()
    first = take(places, "a", evicted)
    second = take(places, "b", evicted)
    assert first is not None
    assert second is not None
    places.leave(first)
    places.prove(first)
    assert places.total == 1
    places.leave(second)
    assert places.total == 0
