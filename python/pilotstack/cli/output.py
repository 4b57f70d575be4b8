"""The only printer of ``pilotctl``: JSON for programs, tables and colours for people.

Whatever is printed may come from a stranger: names, versions, reasons, data. So no text is taken
for markup, and control characters are shown as escapes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pilotstack.errors import PilotError

Data = Mapping[str, Any]

#: Columns of text that goes to a file or a program: wide enough for every table.
_UNBOUNDED = 1000
#: Exit status by the ``code`` of a failure; 1 for all others. See docs/reference/pilotctl.md.
EXIT_STATUS = {
    "invalid_argument": 2,
    "not_found": 3,
    "already_exists": 4,
    "permission_denied": 5,
    "connection_failed": 6,
    "connection_refused": 6,
    "throttled": 6,
    "timeout": 7,
    "not_running": 8,
    "unavailable": 9,
    "interrupted": 130,
}


def exit_status(code: str) -> int:
    """The exit status of a failure with this ``code``."""
    return EXIT_STATUS.get(code, 1)


def visible(text: str, *, keeps_lines: bool = False) -> str:
    r"""The text with everything that is not printable as an escape, such as ``\x1b``.

    Args:
        keeps_lines: line feeds and tabs stay.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if keeps_lines else ""
    return "".join(
        char
        if char.isprintable() or char in kept
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


class OutputFailed(Exception):
    """Stdout takes nothing: its reader left, or the disk is full. Others act on an OSError."""


@contextmanager
def _output() -> Iterator[None]:
    """Where stdout is written to."""
    try:
        yield
    except OSError as error:
        raise OutputFailed(str(error)) from error


class Screen(Console):
    """A console to which every string is literal text. What stderr does not take is dropped."""

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
        with suppress(OSError) if self.stderr else _output():
            super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """As any failure to write."""
        raise BrokenPipeError


class Output:
    """Prints results in one of two forms.

    Args:
        is_json: ``None`` means JSON unless stdout is a terminal.
    """

    def __init__(self, is_json: bool | None = None) -> None:
        self.is_json = not sys.stdout.isatty() if is_json is None else is_json
        self.screen = Screen()
        self.progress = Screen(stderr=True)

    def success(self, data: Data, render: Callable[[Screen], None] | None = None) -> None:
        """The result of a command; ``render`` shows it to people."""
        if self.is_json:
            self._line({"data": data, "status": "ok"})
        elif render is not None:
            render(self.screen)
        else:
            self.screen.print(fields(data))

    def line(self, data: Data, text: str) -> None:
        """One of many results, as it comes."""
        if self.is_json:
            self._line(data)
        else:
            self.screen.print(text)

    def step(self, text: str | Text) -> None:
        """Something on the way to the result, for people."""
        if not self.is_json:
            self.screen.print(text)

    def failure(self, error: PilotError, data: Data | None = None) -> None:
        """Why a command failed: for programs as JSON on stdout, for people on stderr.

        Args:
            data: what the command found before it failed.
        """
        self.report(error.code, error.message, error.hint, data)

    def report(
        self, code: str, message: str, hint: str | None = None, data: Data | None = None
    ) -> None:
        """As :meth:`failure`, for what is no error of the package."""
        if self.is_json:
            report: dict[str, Any] = {"code": code, "message": message, "status": "error"}
            report |= {"hint": hint} if hint else {}
            report |= {"data": data} if data is not None else {}
            self._line(report)
            return
        screen = Screen(stderr=True)
        for label, style, text in (("error: ", "bold red", message), ("hint:  ", "yellow", hint)):
            if text:
                screen.print(Text.assemble((label, style), visible(text)), soft_wrap=True)

    @staticmethod
    def _line(value: Data) -> None:
        with _output():
            sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
            sys.stdout.flush()


def moment(unix: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def fields(data: Data) -> Table:
    """One row per member that is no list or object."""
    grid = Table.grid(padding=(0, 2))
    for name, value in data.items():
        if not isinstance(value, list | dict):
            grid.add_row(Text(visible(name), "bold"), _cell(value))
    return grid


def _cell(value: object) -> Text:
    return Text(visible(str(value)), overflow="fold")


class Rows:
    """A table, or one block per row where the table would not fit."""

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


def rows(title: str, columns: Mapping[str, str], data: Sequence[Data]) -> Rows:
    """A table; ``columns`` maps members to headings."""
    return Rows(title, columns, data)
