"""The only printer of ``pilotctl``: JSON for programs, tables and colours for people.

Tables are in :mod:`pilotstack.cli.screen`, which is imported only when it is needed. Texts may come
from strangers (names, reasons, data): none is parsed as markup, and control characters are escaped.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from pilotstack.cli.text import Data, members_of, stdout_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from pilotstack.cli.screen import Screen
    from pilotstack.errors import PilotError

#: Exit status for the ``code`` of a failure; 1 for others. See docs/reference/pilotctl.md.
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
    """Prints results as JSON or for people.

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
        """Prints the result of a command; ``render`` does it for people."""
        data = members_of(result)
        if self.is_json:
            self._line({"data": data, "status": "ok"})
        elif render is not None:
            render(self.screen)
        else:
            self.screen.fields(data)

    def line(self, data: Data, text: str) -> None:
        """Prints one of many results as soon as it is there."""
        if self.is_json:
            self._line(data)
        else:
            self.screen.print(text)

    def step(self, text: str) -> None:
        """Prints progress for people."""
        if not self.is_json:
            self.screen.print(text)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Says what is waited for while the context lasts, to people who wait for long."""
        if self.is_json or sys.stderr is None or not sys.stderr.isatty():
            return nullcontext()
        from pilotstack.cli.waiting import Waiting

        return Waiting(lambda: self.progress, text)

    def verbatim(self, text: str) -> None:
        """Prints a text as it is: for shells and files, not for people."""
        with stdout_errors():
            sys.stdout.write(text)
            sys.stdout.flush()

    def failure(self, error: PilotError, data: Data | None = None) -> None:
        """Prints why a command failed: as JSON on stdout, or for people on stderr.

        Args:
            data: results before the failure.
        """
        self.report(error.code, error.message, error.hint, data)

    def report(
        self, code: str, message: str, hint: str | None = None, data: Data | None = None
    ) -> None:
        """As :meth:`failure`, for other errors than :exc:`PilotError`."""
        if self.is_json:
            report: dict[str, object] = {"code": code, "message": message, "status": "error"}
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
    """A Unix time as text, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")
