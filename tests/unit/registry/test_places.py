"""Who is connected, and who gives way."""

from __future__ import annotations

from pilotstack.registry.server.seats import Places, Seat


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


def test_a_source_with_far_more_proven_seats_gives_one_up() -> None:
    places, evicted = Places(40), list[str]()
    for number in range(20):
        for source in ("first", "second"):
            seat = take(places, source, evicted, f"{source}-{number}")
            assert seat is not None
            places.prove(seat)
    for _ in range(4):
        seat = take(places, "new", evicted)
        assert seat is not None
        places.prove(seat)
    assert evicted == ["first-0", "second-0", "first-1", "second-1"]
    assert places.total == 40
    # With a fifth they would not have four times as many.
    assert take(places, "new", evicted) is None


def test_those_of_this_host_are_not_given_up_when_they_are_proven() -> None:
    places, evicted = Places(20), list[str]()
    for _ in range(20):
        seat = Seat("near", lambda: evicted.append("near"))
        assert places.enter(seat, is_exempt=True)
        places.prove(seat)
    assert take(places, "far", evicted) is None
    assert evicted == []


def test_who_withdraws_gives_way_again() -> None:
    places, evicted = Places(2), list[str]()
    for name in ("a", "b"):
        seat = take(places, name, evicted)
        assert seat is not None
        places.prove(seat)
        places.prove(seat)
        places.withdraw(seat)
    assert take(places, "c", evicted) is not None
    assert evicted == ["a"]
    assert seat is not None
    places.withdraw(seat)
    places.leave(seat)
    assert places.total == 1
