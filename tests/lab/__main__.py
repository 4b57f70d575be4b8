"""``make lab``: the NAT lab, as root. Prints what it found; exits with 1 if a figure is missed."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tests.lab import figures, matrix, nebula, places, report
from tests.lab.checks import checks
from tests.lab.trial import Pair

from pilotstack.testing.internet import missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.checks import Check
    from tests.lab.report import Report
    from tests.lab.trial import Result

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "nat-lab.md"
_TARGET = os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target")
_LAB = Path(_TARGET) / "release" / "pilot-lab"
#: Pairs that are tried again, for percentiles and shares.
_AGAIN = (
    *((first, second) for first in places.EASY[2:6] for second in places.EASY[2:6]),
    *[("sequential", "sequential")] * 9,
    *[("port-restricted", "sequential")] * 4,
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, and progress nowhere")
    parser.add_argument("--long", action="store_true", help="transfer 500 MB where 50 are usual")
    parser.add_argument(
        "--pair", action="append", default=[], metavar="PLACE,PLACE", help="this pair only"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        choices=("pairs", "events", "mtu", "idle", "uses", "endurance"),
        help="these figures only; the page needs those of pairs",
    )
    parser.add_argument(
        "--nebula",
        action=argparse.BooleanOptionalAction,
        default=nebula.is_installed(),
        help="try the same pairs with nebula (default: if it is installed)",
    )
    parser.add_argument("--jobs", type=int, default=3, help="pairs at a time (default 3)")
    parser.add_argument("--page", type=Path, default=_PAGE, help="where the page goes")
    parser.add_argument("--no-page", action="store_true", help="write no page")
    return parser.parse_args()


def _pairs(options: argparse.Namespace) -> list[Pair]:
    names: Iterable[tuple[str, str]]
    if options.pair:
        names = [(first, second) for first, _, second in (t.partition(",") for t in options.pair)]
    elif options.group and "pairs" not in options.group:
        names = ()
    else:
        names = [*places.pairs(), *_AGAIN]
    return [Pair(first, second, number) for number, (first, second) in enumerate(names)]


def _checks(options: argparse.Namespace, console: Console) -> list[Check]:
    if options.pair:
        return []
    found = checks(_LAB, is_long=options.long, tell=lambda text: console.log(text))
    return [check for check in found if not options.group or check.group in options.group]


async def _run(options: argparse.Namespace, console: Console) -> Report:
    found = report.Report()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=options.json) as progress:
        pairs = _pairs(options)
        selected = _checks(options, progress.console)
        task = progress.add_task("pairs", total=len(pairs))
        figure_task = progress.add_task("figures", total=len(selected))

        def done(result: Result) -> None:
            progress.advance(task)
            progress.console.print("  ".join(report.cells(result)), highlight=False)

        found.results = await matrix.run_all(pairs, _LAB, side_by_side=options.jobs, report=done)
        found.figures.extend(figures.of_pairs(found.results))
        if options.nebula and len(pairs) > len(places.PLACES):
            others = [
                Pair(first, second, 200 + number)
                for number, (first, second) in enumerate(places.pairs())
            ]
            progress.update(task, total=len(pairs) + len(others))
            found.others = await matrix.run_all(
                others, _LAB, side_by_side=options.jobs, report=done, run=nebula.run
            )
        # One at a time: they measure stalls.
        for check in selected:
            for figure in await check.run():
                found.figures.append(figure)
                text = f"{figure.what}: {figure.measured} ({figure.bound}) {figure.verdict}"
                progress.console.print(text, highlight=False)
            progress.advance(figure_task)
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Runs the lab."""
    options = _arguments()
    if missing := missing_requirement(*places.PROGRAMS):
        raise SystemExit(f"the lab needs {missing}")
    # Both ways of being told to stop leave nothing behind.
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    found = anyio.run(partial(_run, options, console))
    if options.json:
        sys.stdout.write(f"{found.to_json()}\n")
    else:
        for table in found.tables():
            Console().print(table)
    has_pairs = not options.pair and (not options.group or "pairs" in options.group)
    if has_pairs and not options.no_page:
        found.write_page(options.page)
    return 0 if found.has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
