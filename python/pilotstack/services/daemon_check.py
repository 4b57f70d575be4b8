"""Whether the daemon of a program answers, for the program's health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from pilotstack.client import Driver

#: Seconds between questions, and for an answer.
_EVERY: Final = 5.0
_ANSWER: Final = 5.0


class DaemonCheck:
    """Asks the daemon now and then.

    Args:
        driver: asks it.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._problem = ""

    def problem(self) -> str:
        """Why the daemon did not answer last; empty if it did."""
        return self._problem

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            try:
                with anyio.fail_after(_ANSWER):
                    await self._driver.info()
            except (PilotError, TimeoutError, OSError) as error:
                self._problem = f"the daemon does not answer: {error or 'timeout'}"
            else:
                self._problem = ""
            await anyio.sleep(_EVERY)
