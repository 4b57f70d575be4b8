"""``pilotctl completion``: scripts with which shells complete commands and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from pilotstack import _commands
from pilotstack.cli.context import global_options, reported

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings

_SHELLS: Final = ("bash", "zsh", "fish")
#: Variable by which the script asks for words.
_VARIABLE: Final = "_PILOTCTL_COMPLETE"


@_commands.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@global_options
@reported
def completion(settings: Settings, shell: str) -> None:
    """Print the script with which a shell completes commands and flags.

    It is a script with JSON, too, because shells read it.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    # The shell's version is for the shell to check: the script may be for another host.
    source = (
        kind.source_template
        % kind(click.Command("pilotctl"), {}, "pilotctl", _VARIABLE).source_vars()
    )
    settings.output.verbatim(source)


COMMANDS = (completion,)
