"""The only printer of ``pilotctl``: JSON for programs, tables and colours for people.

The tables are in :mod:`pilotstack.cli.screen`, which is imported when there is something to show.
Whatever is printed may come from a stranger: names, versions, reasons, data. So no text is taken
for markup, and control characters are shown as escapes.
"""

from __future__ import annotations

import json
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pilotstack.cli.text import Data, members_of, stdout_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from pilotstack.cli.screen import Screen
    from pilotstack.errors import PilotError

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


class Output:
    """Prints results in one of two forms.

    Args:
        is_json: ``None`` means JSON unless stdout is a terminal.
    """

    def __init__(self, is_json: bool | None = None) -> None:
        self.is_json = not sys.stdout.isatty() if is_json is None else is_json

    @cached_property
    def screen(self) -> Screen:
        """Stdout, for people."""
        from pilotstack.cli.screen import Screen

        return Screen()

    @cached_property
    def progress(self) -> Screen:
        """Stderr, for people."""
        from pilotstack.cli.screen import Screen

        return Screen(stderr=True)

    def success(
        self, result: Data | msgspec.Struct, render: Callable[[Screen], None] | None = None
    ) -> None:
        """The result of a command; ``render`` shows it to people."""
        data = members_of(result)
        if self.is_json:
            self._line({"data": data, "status": "ok"})
        elif render is not None:
            render(self.screen)
        else:
            self.screen.fields(data)

    def line(self, data: Data, text: str) -> None:
        """One of many results, as it comes."""
        if self.is_json:
            self._line(data)
        else:
            self.screen.print(text)

    def step(self, text: str) -> None:
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
        self.progress.failure(message, hint)

    @staticmethod
    def _line(value: Data) -> None:
        with stdout_errors():
            sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
            sys.stdout.flush()


def moment(unix: float) -> str:
    """A time for people, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")
