"""The only printer of ``pilotctl``: JSON for programs, tables and colours for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pilotstack.errors import PilotError

Data = Mapping[str, Any]


class Output:
    """Prints results in one of two forms.

    Args:
        is_json: ``None`` means JSON unless stdout is a terminal.
    """

    def __init__(self, is_json: bool | None = None) -> None:
        self.is_json = not sys.stdout.isatty() if is_json is None else is_json
        self.console = Console(highlight=False)
        self.progress = Console(stderr=True, highlight=False)

    def success(self, data: Data, render: Callable[[Console], None] | None = None) -> None:
        """The result of a command; ``render`` shows it to people."""
        if self.is_json:
            self._line({"data": data, "status": "ok"})
        elif render is not None:
            render(self.console)
        else:
            self.console.print(fields(data))

    def line(self, data: Data, text: str) -> None:
        """One of many results, as it comes."""
        if self.is_json:
            self._line(data)
        else:
            self.console.print(text, markup=False)

    def step(self, text: str) -> None:
        """Something on the way to the result, for people."""
        if not self.is_json:
            self.console.print(text)

    def failure(self, error: PilotError) -> None:
        """Why a command failed: always on stderr, and as JSON on stdout too for programs."""
        report = {"code": error.code, "message": error.message, "status": "error"}
        if error.hint:
            report["hint"] = error.hint
        if self.is_json:
            self._line(report)
            sys.stderr.write(json.dumps(report) + "\n")
            return
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error:[/] {error.message}", soft_wrap=True)
        if error.hint:
            console.print(f"[yellow]hint:[/]  {error.hint}", soft_wrap=True)

    @staticmethod
    def _line(value: Data) -> None:
        sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
        sys.stdout.flush()


def moment(unix: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def fields(data: Data) -> Table:
    """One row per member."""
    grid = Table.grid(padding=(0, 2))
    for name, value in data.items():
        if not isinstance(value, list | dict):
            grid.add_row(f"[bold]{name}[/]", str(value))
    return grid


def rows(title: str, columns: Mapping[str, str], data: Sequence[Data]) -> Table:
    """A table; ``columns`` maps members to headings."""
    table = Table(title=title, title_justify="left")
    for heading in columns.values():
        table.add_column(heading)
    for row in data:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    return table
