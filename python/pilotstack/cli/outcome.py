"""Errors of commands: as they are printed, and as exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.cli.output import exit_status
from pilotstack.errors import (
    InternalError,
    InvalidArgument,
    PilotError,
    TimedOut,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.cli.settings import Settings
    from pilotstack.cli.text import Data

#: Parts of what older daemons answer to unknown requests.
_UNKNOWN_VERBS = ("unknown command", "unknown sub-command", "unknown subcommand")


class Incomplete(Exception):
    """A command failed after it had results.

    Args:
        failure: the error.
        data: the results, in the form of a success.
    """

    def __init__(self, failure: PilotError, data: Data) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.data = data


class Interrupted(BaseException):
    """Ctrl-C, for which click would print an empty line."""


def status_of(settings: Settings, command: Callable[[], None]) -> int:
    """Runs a command, prints its error if it fails, and returns the exit status.

    Raises:
        BrokenPipeError: the reader of stdout has gone.
        Interrupted: by Ctrl-C.
    """
    try:
        command()
    except KeyboardInterrupt:
        raise Interrupted from None
    except BrokenPipeError:
        raise
    except Incomplete as error:
        settings.output.failure(error.failure, error.data)
        return exit_status(error.failure.code)
    except (PilotError, OSError) as error:
        failure = _failure(error)
    except UnicodeEncodeError as error:
        failure = InvalidArgument(f"not text: {error.object!r}", hint="arguments are UTF-8")
    else:
        return 0
    settings.output.failure(failure)
    return exit_status(failure.code)


def _failure(error: Exception) -> PilotError:
    match error:
        case PilotError() if any(text in error.message for text in _UNKNOWN_VERBS):
            return Unavailable(
                f"the daemon does not know this command ({error.message})",
                hint="it is an older one; update it, or see: pilotctl info",
            )
        case PilotError():
            return error
        case TimeoutError():
            return TimedOut("no answer in time", hint="raise --timeout")
        case OSError() if error.filename is not None:
            return InternalError(f"{error.filename}: {error.strerror}")
        case _:
            return unexpected(error)


def unexpected(error: BaseException) -> InternalError:
    """The error for an unexpected exception."""
    return InternalError(str(error) or type(error).__name__)
