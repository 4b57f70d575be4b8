"""The bounds that the lab checks, and what it measured against them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.places import EASY, PLACES, Expected
from tests.lab.trial import RELAY_RTT

from pilotstack.testing.internet import Behaviour

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.lab.trial import Result


@dataclass(frozen=True, slots=True)
class Figure:
    """One bound."""

    what: str
    bound: str
    measured: str
    is_met: bool

    @property
    def verdict(self) -> str:
        """A word."""
        return "met" if self.is_met else "missed"


def of_pairs(results: Sequence[Result]) -> Iterator[Figure]:
    """The bounds on how two agents meet."""
    easy = [row for row in results if row.first in EASY and row.second in EASY and _has_way(row)]
    if easy:
        yield _seconds_to_direct(
            "endpoint-independent mapping on both sides: direct path, 95th percentile", easy, 1.0
        )
    dependent = [row for row in results if _is_dependent(row.first) != _is_dependent(row.second)]
    relayed = [row for row in dependent if row.first_path == "relay"]
    if relayed:
        bound = 2 * RELAY_RTT + 0.1
        times = [row.first_byte if row.first_byte else math.inf for row in relayed]
        yield Figure(
            "one side address- and port-dependent: first byte through the relay, every time",
            f"2 relay RTT + 100 ms = {bound * 1000:.0f} ms",
            _spread(times),
            max(times) <= bound,
        )
    predicted = [row for row in dependent if row.expected == Expected.PREDICTED.value]
    if predicted:
        times = _direct_times(predicted)
        yield Figure(
            "one side with sequential ports: direct path",
            "5 s",
            _spread(times),
            max(times) <= 5.0,
        )
    both = [row for row in results if row.first == row.second == "sequential"]
    if both:
        share = sum(row.direct is not None for row in both) / len(both)
        yield Figure(
            "both sides symmetric with sequential ports: direct",
            "80 %",
            f"{share:.0%} of {len(both)}",
            share >= 0.8,
        )


def _has_way(row: Result) -> bool:
    return row.expected == Expected.DIRECT.value


def _is_dependent(name: str) -> bool:
    return PLACES[name].nat.mapping is Behaviour.ADDRESS_AND_PORT_DEPENDENT


def _direct_times(rows: Iterable[Result]) -> list[float]:
    return [math.inf if row.direct is None else row.direct for row in rows]


def _seconds_to_direct(what: str, rows: Sequence[Result], bound: float) -> Figure:
    times = sorted(_direct_times(rows))
    reached = percentile(times, 0.95)
    return Figure(what, f"{bound:.0f} s", f"{_time(reached)} of {len(times)}", reached <= bound)


def percentile(times: Sequence[float], share: float) -> float:
    """The smallest of the sorted times that this share does not exceed."""
    return times[max(0, math.ceil(share * len(times)) - 1)]


def _spread(times: Iterable[float]) -> str:
    ordered = sorted(times)
    middle, last = percentile(ordered, 0.5), ordered[-1]
    return f"median {_time(middle)}, longest {_time(last)}, of {len(ordered)}"


def _time(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds * 1000:.0f} ms"
