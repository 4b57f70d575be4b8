"""The process around a command: closed streams, output that nobody takes, interruptions."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pilotstack import _interrupts, _streams
from pilotstack.cli.output import Output, exit_status
from pilotstack.cli.text import OutputFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

#: What a shell reports of a program that SIGPIPE ended.
_PIPE_CLOSED = 141


def run(command: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with the status that it returns."""
    _replace_closed_streams()
    try:
        status = command()
        sys.stdout.flush()
    except (OSError, OutputFailed) as error:
        # Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _without_output(error.__cause__ or error)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    # Taking the interpreter apart takes longer than most commands, and nothing is left to be done.
    os._exit(status)


def guarded(output: Output, command: Callable[[], int]) -> int:
    """The status of a command that may be interrupted, or be defective.

    Raises:
        BrokenPipeError, OutputFailed: stdout takes nothing.
    """
    _interrupts.raise_exception()
    try:
        return command()
    except KeyboardInterrupt:
        output.report("interrupted", "interrupted")
        sys.stderr.flush()
        # A thread may still wait for somebody to read our output.
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
    # Nobody reads JSON where nothing can be written.
    Output(is_json=False).report("internal", f"cannot write the output: {reason}")
    return exit_status("internal")


def _replace_closed_streams() -> None:
    """What was closed by whoever started this takes everything and keeps nothing."""
    _streams.occupy_standard_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
