"""The last log records of this process, for the dashboard."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import msgspec

from pilotstack import _logs

#: Records that are kept, and characters of one.
KEPT: Final = 100
_MAX_TEXT: Final = 300


class Entry(msgspec.Struct, frozen=True):
    """One record."""

    #: Grows by one; the first has 1.
    number: int
    #: Unix seconds.
    time: float
    level: str
    event: str
    #: The members, as text.
    detail: str = ""


class Recent(logging.Handler):
    """Keeps the last records; a context manager that listens to all loggers."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._number = 0

    def __enter__(self) -> Recent:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        try:
            event, detail = _logs.describe(record)
        except Exception:
            event, detail = record.name, ""
        self._number += 1
        level = record.levelname.lower()
        self._entries.append(
            Entry(self._number, record.created, level, event[:_MAX_TEXT], detail[:_MAX_TEXT])
        )

    def entries(self) -> list[Entry]:
        """The records, the newest first."""
        return list(reversed(self._entries))
