"""The process of a command: closed standard streams, failed output, interrupts, exit status."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pilotstack import _interrupts, _streams
from pilotstack.cli.outcome import Interrupted
from pilotstack.cli.output import Output, exit_status
from pilotstack.cli.text import OutputFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

#: Status that a shell reports for a program that SIGPIPE ended.
_PIPE_CLOSED = 141


def run(command: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with the status that it returns."""
    _replace_closed_streams()
    try:
        status = command()
        sys.stdout.flush()
    except (OSError, OutputFailed) as error:
        # What is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _without_output(error.__cause__ or error)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    # Shutting the interpreter down would take longer than most commands.
    os._exit(status)


def guarded(output: Output, command: Callable[[], int]) -> int:
    """The exit status of a command, also if it is interrupted or raises an unexpected exception.

    Raises:
        BrokenPipeError, OutputFailed: writing to stdout failed.
    """
    _interrupts.raise_exception()
    try:
        return command()
    except (KeyboardInterrupt, Interrupted):
        # A person knows; a program may not.
        if output.is_json:
            output.report("interrupted", "interrupted")
        elif sys.stderr.isatty():
            # Behind the terminal's ^C.
            sys.stderr.write("\n")
        sys.stderr.flush()
        # A thread may be blocked in a write to a pipe that nobody reads.
        os._exit(exit_status("interrupted"))
    except (BrokenPipeError, OutputFailed):
        raise
    except Exception as error:
        if os.environ.get("PILOT_DEBUG"):
            import traceback

            traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        output.report("internal", message, hint="a defect: PILOT_DEBUG=1 shows where it happened")
        return exit_status("internal")
    finally:
        _interrupts.end_process()


def _without_output(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        return _PIPE_CLOSED
    reason = getattr(error, "strerror", None) or error
    # Stdout does not work, so not JSON.
    Output(is_json=False).report("internal", f"cannot write the output: {reason}")
    return exit_status("internal")


def _replace_closed_streams() -> None:
    """Opens /dev/null for standard streams that were closed at the start."""
    _streams.occupy_standard_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
