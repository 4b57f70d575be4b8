"""Commands and groups of click whose help and usage errors rich-click renders.

rich-click, and rich with it, is imported only when there is something to render: it takes longer
than most commands.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich_click import RichCommand, RichContext

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Command(click.Command):
    """A command with rendered help."""

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        return _render_help(self, ctx)


class Group(click.Group):
    """A group of commands with rendered help."""

    command_class = Command

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        return _render_help(self, ctx)


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """As :func:`click.command`, for a :class:`Command`."""
    return click.command(name, cls=Command, **settings)


def show_usage_error(error: click.ClickException) -> None:
    """Prints an error of the command line on stderr, for people."""
    from rich_click import RichHelpFormatter

    context = error.ctx if isinstance(error, click.UsageError) else None
    formatter = _rich_context(context).make_formatter() if context else RichHelpFormatter()
    formatter.write_error(error)
    sys.stderr.write(formatter.getvalue())


def _render_help(command: click.Command, context: click.Context) -> str:
    rich = _rich_context(context)
    return rich.command.get_help(rich)


def _rich_context(context: click.Context) -> RichContext:
    """A context of rich-click that stands where one of click does."""
    from rich_click import RichContext

    return RichContext(
        _rich_command(context.command),
        info_name=context.info_name,
        parent=context.parent,
        auto_envvar_prefix=context.auto_envvar_prefix,
        default_map=context.default_map,
        help_option_names=context.help_option_names,
        terminal_width=context.terminal_width,
        max_content_width=context.max_content_width,
    )


def _rich_command(command: click.Command) -> RichCommand:
    """The same command for rich-click; subcommands are shown, not run."""
    from rich_click import RichCommand, RichGroup

    settings: dict[str, Any] = {
        "name": command.name,
        "params": command.params,
        "help": command.help,
        "epilog": command.epilog,
        "options_metavar": command.options_metavar,
    }
    if isinstance(command, click.Group):
        return RichGroup(
            commands=command.commands, subcommand_metavar=command.subcommand_metavar, **settings
        )
    return RichCommand(**settings)
