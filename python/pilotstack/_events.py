"""Log events: a name and members, written through :mod:`logging`.

Programs that embed the package see them as ordinary log records; servers render them with
:mod:`pilotstack._logs`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


#: Members that say where somebody is: IP addresses and ports. Records have them only where
#: debugging is on, since logs are kept and shown around.
WHERE: Final = frozenset({"endpoint", "endpoints", "external", "source", "sources"})


class Event:
    """The message of a log record: what happened, and to whom.

    Args:
        name: in ``snake_case``; log readers search for it.
        members: shown by their ``repr``, or as JSON.
    """

    __slots__ = ("members", "name")

    def __init__(self, name: str, members: Mapping[str, object]) -> None:
        self.name = name
        self.members = members

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{key}={value}" for key, value in self.members.items())))


class EventLog:
    """Logs events under a module's name.

    Args:
        name: of the logger.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **members: object) -> None:
        """Logs a detail for debugging."""
        self._log(logging.DEBUG, event, members)

    def info(self, event: str, **members: object) -> None:
        """Logs a change of state."""
        self._log(logging.INFO, event, members)

    def warning(self, event: str, **members: object) -> None:
        """Logs a problem that an operator should look at."""
        self._log(logging.WARNING, event, members)

    def security(
        self, event: str, *, is_quiet: bool = False, level: int = logging.INFO, **members: object
    ) -> None:
        """Logs a security event, and writes it to the audit log if there is one.

        Args:
            is_quiet: the log gets it for debugging only: it is frequent, or names addresses.
        """
        if _audit is not None:
            _audit(event, members)
        self._log(logging.DEBUG if is_quiet else level, event, members)

    def error(
        self, event: str, *, exc_info: BaseException | None = None, **members: object
    ) -> None:
        """Logs a failure, with the traceback of ``exc_info`` if given."""
        self._log(logging.ERROR, event, members, exc_info)

    def critical(self, event: str, **members: object) -> None:
        """Logs why the process cannot go on."""
        self._log(logging.CRITICAL, event, members)

    def exception(self, event: str, **members: object) -> None:
        """Logs a failure with the traceback of the exception being handled."""
        self._log(logging.ERROR, event, members, True)

    def _log(
        self,
        level: int,
        event: str,
        members: Mapping[str, object],
        exc_info: BaseException | bool | None = None,
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if not (WHERE.isdisjoint(members) or self._logger.isEnabledFor(logging.DEBUG)):
            members = {name: value for name, value in members.items() if name not in WHERE}
        self._logger.log(level, Event(event, members), exc_info=exc_info)


#: Receives security events; one for the process, like the root of the loggers.
_audit: Callable[[str, Mapping[str, object]], None] | None = None


def set_audit(sink: Callable[[str, Mapping[str, object]], None] | None) -> None:
    """Sends security events to a function as well, or to nobody."""
    global _audit
    _audit = sink


def get_logger(name: str) -> EventLog:
    """The event log of a module."""
    return EventLog(name)
