"""``/healthz``: whether the process works at all, so that a supervisor need not restart it; and
``/readyz``: whether clients should be sent to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pilotstack import wellknown
from pilotstack.http.messages import Request, Response, json_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OK: Final = 200
_UNAVAILABLE: Final = 503


class Health:
    """The two pages of a program.

    Args:
        alive: what must be so for the process to work: for each name a function that returns the
            problem, or an empty text.
        ready: what must be so beyond that for clients to be served.
        members: further members of both pages.
    """

    def __init__(
        self,
        alive: Mapping[str, Callable[[], str]],
        ready: Mapping[str, Callable[[], str]] | None = None,
        members: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        self._alive = alive
        self._beyond = ready or {}
        self._members = members or dict
        self._started = time.monotonic()

    async def healthz(self, request: Request) -> Response:
        """Answers 503 if the process does not work."""
        del request
        return self._page(self._alive)

    async def readyz(self, request: Request) -> Response:
        """Answers 503 if clients should go elsewhere, or wait."""
        del request
        return self._page({**self._alive, **self._beyond})

    def problems(self) -> dict[str, str]:
        """Why clients should go elsewhere, by name, of a process that works."""
        found = {name: check() for name, check in self._beyond.items()}
        return {name: problem for name, problem in found.items() if problem}

    def _page(self, checks: Mapping[str, Callable[[], str]]) -> Response:
        found = {name: check() for name, check in checks.items()}
        problems = [problem for problem in found.values() if problem]
        page: dict[str, object] = {
            "status": problems[0] if problems else "ok",
            "version": wellknown.VERSION,
            "uptime_seconds": int(time.monotonic() - self._started),
            "checks": {name: problem or "ok" for name, problem in found.items()},
            **self._members(),
        }
        return json_response(_UNAVAILABLE if problems else _OK, page)
