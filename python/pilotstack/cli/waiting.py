"""Words for people about what takes longer than a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.status import Status

    from pilotstack.cli.screen import Screen

#: Seconds after which somebody wonders.
_PATIENCE: Final = 1.0


class Waiting:
    """Says on stderr, if that is a terminal, what is waited for, as soon as it takes longer than a
    second; a context manager. Nothing is left of it afterwards.

    Args:
        screen: stderr, for people.
        text: what is waited for.
    """

    def __init__(self, screen: Callable[[], Screen], text: str) -> None:
        self._screen = screen
        self._text = text
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._is_over = False
        self._timer = threading.Timer(_PATIENCE, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._status is not None:
                self._status.stop()

    def _show(self) -> None:
        from rich.status import Status
        from rich.text import Text

        from pilotstack.cli.text import visible

        text = Text(f"{visible(self._text)} (Ctrl-C ends it)")
        with self._lock:
            if not self._is_over:
                self._status = Status(text, console=self._screen())
                self._status.start()
