"""Names that the registry does not know, from the nameserver on the overlay. So every program may
give such a name wherever it may give a hostname."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pilotstack import _events
from pilotstack.errors import InvalidArgument, NotFound, PilotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.client import Driver
    from pilotstack.services.nameserver.client import Names
    from pilotstack.types import Address

log = _events.get_logger(__name__)

#: Seconds for an answer.
PATIENCE: Final = 5.0
#: Seconds for which it is remembered where the nameserver is, and that it cannot be reached.
_FOUND_FOR: Final = 60.0
_LOST_FOR: Final = 5.0


class OtherNames:
    """Asks the nameserver.

    Args:
        server: its address, node id or hostname; empty asks nobody.
        driver: the session that asks; ``None`` until it is open.
    """

    def __init__(self, server: str, driver: Callable[[], Driver | None]) -> None:
        self._server = server
        self._driver = driver
        self._names: Names | None = None
        self._until = 0.0

    async def resolve(self, name: str) -> Address | None:
        """The address behind a name; ``None`` if there is none, or nobody to ask."""
        driver = self._driver()
        # Where the nameserver is does not follow from its own records.
        if driver is None or not self._server or name == self._server:
            return None
        names = self._current(driver)
        if names is None:
            return None
        try:
            return await names.resolve(name)
        except NotFound:
            if not names.is_found:
                # There is no nameserver.
                self._lose()
        except InvalidArgument as error:
            # No record can have this name.
            log.debug("name_not_asked_for", error=error.message)
        except PilotError as error:
            log.debug("nameserver_not_asked", error=error.message)
            self._lose()
        return None

    def _lose(self) -> None:
        """Asks nobody for a moment."""
        self._names, self._until = None, time.monotonic() + _LOST_FOR

    def _current(self, driver: Driver) -> Names | None:
        now = time.monotonic()
        if self._names is None and now < self._until:
            return None
        if self._names is None or now >= self._until:
            from pilotstack.services.nameserver.client import Names

            self._names = Names(driver, self._server, timeout=PATIENCE)
            self._until = now + _FOUND_FOR
        return self._names
