"""Runs ``info``, ``peers`` and ``connections`` without click, if they are asked for JSON.

Programs poll these commands, and importing click takes longer than answering. Any other command
line is left to :mod:`pilotstack.cli.main`, which has the same commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pilotstack.cli import process, status
from pilotstack.cli.outcome import status_of
from pilotstack.cli.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS: Final[dict[str, Callable[[Settings], None]]] = {
    "connections": status.show_connections,
    "info": status.show_info,
    "peers": status.show_peers,
}


def try_run(arguments: Sequence[str]) -> None:
    """Runs the command and ends the process, if it is one of :data:`COMMANDS` with JSON output;
    otherwise returns."""
    parsed = _parse(arguments)
    if parsed is None:
        return
    command, settings = parsed
    output = settings.output
    if output.is_json:
        process.run(
            lambda: process.guarded(output, lambda: status_of(settings, lambda: command(settings)))
        )


def _parse(arguments: Sequence[str]) -> tuple[Callable[[Settings], None], Settings] | None:
    """The command and the global options; ``None`` for any other command line."""
    if sys.stdout is None:
        return None
    command, settings = None, Settings()
    left = iter(arguments)
    for argument in left:
        name, is_given, value = argument.partition("=")
        if argument in {"--json", "--no-json"}:
            settings.is_json = argument == "--json"
        elif name in {"--socket", "-socket"}:
            socket = value if is_given else next(left, "")
            if not socket or socket.startswith("-"):
                return None
            settings.socket = Path(socket)
        elif command is None and argument in COMMANDS:
            command = COMMANDS[argument]
        else:
            return None
    return (command, settings) if command is not None else None
