"""What the lab found: for a terminal, as JSON, and as a page of the documents."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from tests.lab.places import PLACES
from tests.lab.trial import DELAY, RELAY_RTT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.lab.figures import Figure
    from tests.lab.trial import Result

_TEMPLATE = Path(__file__).with_name("page.txt")
HEAD = ("from", "to", "expected", "outcome", "first path", "first byte", "direct", "verdict")
BESIDE = (
    *("from", "to", "ours", "first byte", "direct"),
    *("nebula", "its first byte", "its direct"),
)


@dataclass(slots=True)
class Report:
    """Everything that one run found."""

    results: list[Result] = field(default_factory=list)
    #: The same pairs with nebula, where it is installed.
    others: list[Result] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def has_passed(self) -> bool:
        """Whether every pair and every figure is as it must be."""
        return all(row.is_well for row in self.results) and all(
            figure.is_met for figure in self.figures
        )

    def to_json(self) -> str:
        """For programs."""
        members: dict[str, Any] = {
            "pairs": [asdict(row) | {"is_well": row.is_well} for row in self.results],
            "nebula": [asdict(row) for row in self.others],
            "figures": [asdict(figure) for figure in self.figures],
            "ok": self.has_passed,
        }
        return json.dumps(members, indent=1)

    def tables(self) -> Iterator[Table | str]:
        """For people."""
        if self.results:
            yield _table("Pairs", HEAD, map(cells, self.results))
            for row in self.results:
                if row.error:
                    yield f"{row.first} to {row.second}: {row.error}"
        if self.others:
            yield _table("Nebula", BESIDE, _beside(self.results, self.others))
        if self.figures:
            rows = ((f.what, f.bound, f.measured, f.verdict) for f in self.figures)
            yield _table("Figures", ("what", "bound", "measured", "verdict"), rows)

    def write_page(self, path: Path) -> None:
        """For the documents."""
        firsts: dict[tuple[str, str], Result] = {}
        for row in self.results:
            firsts.setdefault((row.first, row.second), row)
        path.write_text(
            _TEMPLATE.read_text().format(
                delay=DELAY,
                relay=f"{RELAY_RTT * 1000:.0f}",
                cores=os.cpu_count(),
                load=f"{os.getloadavg()[2]:.0f}",
                kernel=".".join(platform.release().split(".")[:2]),
                places=_markdown(
                    ("place", "what it is"),
                    ((f"`{place.name}`", place.text) for place in PLACES.values()),
                ),
                figures=_markdown(
                    ("what", "bound", "measured", "verdict"),
                    ((f.what, f.bound, f.measured, f.verdict) for f in self.figures),
                ),
                matrix=_markdown(("", *_numbered()), _square(firsts)),
                pairs=_markdown(HEAD, map(cells, firsts.values())),
                others=_markdown(BESIDE, _beside(self.results, self.others)),
            )
        )


def cells(row: Result) -> tuple[str, ...]:
    """A pair as a line of a table."""
    return (
        row.first,
        row.second,
        row.expected,
        row.outcome,
        row.first_path,
        _milliseconds(row.first_byte),
        _milliseconds(row.direct),
        "well" if row.is_well else "worse",
    )


def _beside(ours: Iterable[Result], others: Iterable[Result]) -> Iterator[tuple[str, ...]]:
    """Lines of pairs that both tried."""
    own = {(row.first, row.second): row for row in reversed(list(ours))}
    for row in others:
        if found := own.get((row.first, row.second)):
            yield row.first, row.second, *_short(found), *_short(row)


def _short(row: Result) -> tuple[str, str, str]:
    return row.outcome, _milliseconds(row.first_byte), _milliseconds(row.direct)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def _numbered() -> list[str]:
    return [f"`{name}`" for name in PLACES]


def _square(firsts: dict[tuple[str, str], Result]) -> Iterator[list[str]]:
    """Outcomes with the places on both edges; the half below the diagonal stays empty."""
    for first in PLACES:
        found = (firsts.get((first, second)) for second in PLACES)
        yield [f"`{first}`", *(row.outcome if row else "" for row in found)]


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name)
    for row in rows:
        bad = row[-1] in ("worse", "missed")
        table.add_row(*row, style="red" if bad else "")
    return table
