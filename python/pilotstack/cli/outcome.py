"""How a command ends: its exit status, and its failure as it is told."""

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

#: What daemons of either older generation answer to a request that they do not know.
_UNKNOWN_VERBS = ("unknown command", "unknown sub-command", "unknown subcommand")


class Incomplete(Exception):
    """A command failed after it had found something.

    Args:
        failure: why.
        data: what it found, in the shape of a success.
    """

    def __init__(self, failure: PilotError, data: Data) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.data = data


def status_of(settings: Settings, command: Callable[[], None]) -> int:
    """Runs a command; an error of ours is printed. Returns the exit status.

    Raises:
        BrokenPipeError: whoever read our output has seen enough.
    """
    try:
        command()
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
    """An error that no command should end with."""
    return InternalError(str(error) or type(error).__name__)
