"""Prints results for people: tables, colours, one block per row where a table is too wide.

This is the part of the printer that imports rich.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pilotstack.cli.text import Data, members_of, stdout_errors, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import msgspec

#: Columns of output to a file or a program: enough for every table.
_UNBOUNDED = 1000


class Screen(Console):
    """A console that prints strings literally. Errors of writing to stderr are ignored."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        is_bounded = stream.isatty() or "COLUMNS" in os.environ
        super().__init__(
            stderr=stderr,
            highlight=False,
            markup=False,
            emoji=False,
            width=None if is_bounded else _UNBOUNDED,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """As :meth:`rich.console.Console.print`; strings are shown by :func:`visible`, with their
        line feeds and tabs."""
        shown = (
            Text(visible(each, keeps_lines=True)) if isinstance(each, str) else each
            for each in objects
        )
        with suppress(OSError) if self.stderr else stdout_errors():
            super().print(*shown, **options)

    def fields(self, result: Data | msgspec.Struct) -> None:
        """Prints one row per member that is neither a list nor an object."""
        grid = Table.grid(padding=(0, 2))
        for name, value in members_of(result).items():
            if not isinstance(value, list | tuple | dict):
                grid.add_row(Text(visible(name), "bold"), _cell(value))
        self.print(grid)

    def rows(
        self, title: str, columns: Mapping[str, str], data: Sequence[Data | msgspec.Struct]
    ) -> None:
        """Prints a table; ``columns`` maps members to headings."""
        self.print(Rows(title, columns, [members_of(row) for row in data]))

    def step(self, name: str, text: str) -> None:
        """Prints that one of several steps is done."""
        self.print(Text.assemble(("\u2713 ", "green"), (f"{name:<10} ", "bold"), text))

    def failure(self, message: str, hint: str | None) -> None:
        """Prints why a command failed, and what can be done about it."""
        for label, style, text in (("error: ", "bold red", message), ("hint:  ", "yellow", hint)):
            if text:
                self.print(Text.assemble((label, style), visible(text)), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Handles a closed pipe as any error of writing."""
        raise BrokenPipeError


def _cell(value: object) -> Text:
    return Text(visible(str(value)), overflow="fold")


class Rows:
    """A table, or one block per row if the table is too wide."""

    def __init__(self, title: str, columns: Mapping[str, str], data: Sequence[Data]) -> None:
        self._title = visible(title)
        self._headings = list(columns.values())
        self._data = [[_cell(row.get(name, "")) for name in columns] for row in data]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        unbounded = options.update_width(_UNBOUNDED)
        if Measurement.get(console, unbounded, table).maximum <= options.max_width:
            yield table
        else:
            yield from self._blocks()

    def _table(self) -> Table:
        table = Table(title=Text(self._title, "italic"), title_justify="left")
        for heading in self._headings:
            table.add_column(heading)
        for row in self._data:
            table.add_row(*row)
        return table

    def _blocks(self) -> list[RenderableType]:
        blocks: list[RenderableType] = [Text(self._title, "italic")]
        for row in self._data:
            grid = Table.grid(padding=(0, 2))
            for heading, cell in zip(self._headings, row, strict=True):
                grid.add_row(Text(heading, "bold"), cell)
            blocks += [Text(""), grid]
        return blocks
