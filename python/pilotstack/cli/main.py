"""``pilotctl``."""

from __future__ import annotations

import os
import sys
import traceback

import rich_click as click

from pilotstack import _flags, _logs, wellknown
from pilotstack.cli import agent, demo, identity, network, service, traffic, trust
from pilotstack.cli.context import Group, global_options
from pilotstack.cli.output import Output, exit_status
from pilotstack.cli.text import OutputFailed

#: What a shell reports of a program that SIGPIPE ended.
_PIPE_CLOSED = 141


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wellknown.VERSION)
@global_options
def pilotctl() -> None:
    """Use and inspect the overlay network for agents."""


for _group in (agent, identity, network, trust, traffic, service, demo):
    for _command in _group.COMMANDS:
        pilotctl.add_command(_command)


def run() -> None:
    """Entry point of ``pilotctl``: runs the command and exits with its status."""
    _replace_closed_streams()
    arguments = _flags.normalize(sys.argv[1:])
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except (OSError, OutputFailed) as error:
        # Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _without_output(error.__cause__ or error)
    sys.exit(status)


def _without_output(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        return _PIPE_CLOSED
    reason = getattr(error, "strerror", None) or error
    # Nobody reads JSON where nothing can be written.
    Output(is_json=False).report("internal", f"cannot write the output: {reason}")
    return exit_status("internal")


def _replace_closed_streams() -> None:
    """What was closed by whoever started this takes everything and keeps nothing."""
    _logs.occupy_standard_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    output = Output(_wants_json(arguments))
    try:
        # click returns the status of a command that exits, else the command's own result: None.
        return pilotctl.main(arguments, prog_name="pilotctl", standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "pilotctl"
        message = error.format_message().rstrip(".")
        output.report("invalid_argument", message, hint=f"see: {path} --help")
        return exit_status("invalid_argument")
    except click.Abort:
        output.report("interrupted", "interrupted")
        sys.stderr.flush()
        # A thread may still wait for somebody to read our output.
        os._exit(exit_status("interrupted"))
    except (BrokenPipeError, OutputFailed):
        raise
    except Exception as error:
        if os.environ.get("PILOT_DEBUG"):
            traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        output.report("internal", message, hint="a defect: PILOT_DEBUG=1 shows where it happened")
        return exit_status("internal")


def _wants_json(arguments: list[str]) -> bool | None:
    """What the global flags say, also when the rest cannot be parsed."""
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    asked = [flag for flag in flags if flag in {"--json", "--no-json"}]
    return asked[-1] == "--json" if asked else None
