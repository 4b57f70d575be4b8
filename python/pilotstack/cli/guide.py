"""Commands that explain the others: the catalogue for programs, the first steps for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import msgspec

from pilotstack import _commands, wellknown
from pilotstack.cli.context import global_options, reported
from pilotstack.cli.text import members_of
from pilotstack.errors import NotFound

if TYPE_CHECKING:
    from pilotstack.cli.catalogue import Entry
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.cli.text import Data

_MAX_NEAR: Final = 3


class Step(msgspec.Struct):
    """One of the first steps."""

    purpose: str
    command: str


STEPS: Final = (
    Step("be a node of a network", "pilotctl daemon start --registry HOST:9000"),
    Step("see who you are", "pilotctl info"),
    Step("find another agent", "pilotctl find agent-b"),
    Step("be let in by it", 'pilotctl handshake agent-b "want to collaborate"'),
    Step("see that it answers", "pilotctl ping agent-b"),
    Step("send it something", "pilotctl send-message agent-b --data hello"),
    Step("read what came", "pilotctl inbox"),
    Step("see all commands", "pilotctl context"),
)


@_commands.command()
@click.argument("path", metavar="[COMMAND]...", nargs=-1)
@global_options
@reported
def context(settings: Settings, path: tuple[str, ...]) -> None:
    """Describe every command for programs: arguments, flags, types, defaults, examples.

    With COMMAND, that one alone.
    """
    from pilotstack.cli import catalogue

    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    described = catalogue.catalogue(root)
    commands = described.commands
    result: Data | msgspec.Struct = described
    if path:
        name = " ".join(path)
        commands = {k: entry for k, entry in commands.items() if f"{k} ".startswith(f"{name} ")}
        if not commands:
            raise NotFound(f"no command {name!r}", hint=_near(name, described.commands))
        result = commands.get(
            name, {"commands": {k: members_of(entry) for k, entry in commands.items()}}
        )

    def render(screen: Screen) -> None:
        for key, entry in commands.items():
            screen.print(" ".join(["pilotctl", key, *entry.args]))
            screen.print(f"    {entry.description}")

    settings.output.success(result, render)


def _near(name: str, commands: dict[str, Entry]) -> str:
    import difflib

    near = difflib.get_close_matches(name, commands, _MAX_NEAR)
    return f"did you mean {' or '.join(near)}?" if near else "see: pilotctl --help"


@_commands.command()
@global_options
@reported
def version(settings: Settings) -> None:
    """Show the version of this program."""
    settings.output.success(
        {"version": wellknown.VERSION}, lambda screen: screen.print(wellknown.VERSION)
    )


@_commands.command()
@global_options
@reported
def quickstart(settings: Settings) -> None:
    """Show the first steps, from a daemon to a message."""

    def render(screen: Screen) -> None:
        for number, step in enumerate(STEPS, 1):
            screen.print(f"{number}. {step.purpose}\n   {step.command}")

    settings.output.success({"steps": [msgspec.to_builtins(step) for step in STEPS]}, render)


COMMANDS = (context, version, quickstart)
