"""Commands and groups of click whose help and usage errors rich-click renders.

rich-click, and rich with it, is imported only when there is something to render: it takes longer
than most commands.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich_click import RichCommand, RichContext

#: Of click; its name depends on the version.
Parser = Any

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Command(click.Command):
    """A command with rendered help, whose long flags may have a single dash."""

    def make_parser(self, ctx: click.Context) -> Parser:
        """The parser."""
        return _with_single_dashes(super().make_parser(ctx))

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        return _render_help(self, ctx)


class Group(click.Group):
    """A group of commands with rendered help, whose long flags may have a single dash."""

    command_class = Command

    def make_parser(self, ctx: click.Context) -> Parser:
        """The parser."""
        return _with_single_dashes(super().make_parser(ctx))

    def get_help(self, ctx: click.Context) -> str:
        """The help page."""
        return _render_help(self, ctx)

    def examples_of(self, path: str) -> Sequence[str]:
        """Examples for the help page of a command of this group, by its path."""
        del path
        return ()

    def sections(self) -> Mapping[str, Sequence[str]]:
        """Sections of the commands in the help page; none means one for all."""
        return {}


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


def _with_single_dashes(parser: Parser) -> Parser:
    """The parser, which takes ``-json`` for ``--json``, as existing programs do. Values are left as
    they are, because only the parser knows which words are flags."""
    known = parser._long_opt
    for name in [name for name in known if name.startswith("--")]:
        known.setdefault(name[1:], known[name])
    return parser


def _render_help(command: click.Command, context: click.Context) -> str:
    rich = _rich_context(context)
    page = rich.command.get_help(rich)
    root = context.find_root().command
    examples = root.examples_of(context.command_path) if isinstance(root, Group) else ()
    if not examples:
        return page
    # Not wrapped, so that they can be copied.
    return "\n".join([page.rstrip("\n"), "", " Examples:", *(f"   {line}" for line in examples)])


def _rich_context(context: click.Context) -> RichContext:
    """A context of rich-click that stands where one of click does."""
    from rich_click import RichContext

    command = context.command
    sections = command.sections() if isinstance(command, Group) else {}
    groups = [{"name": name, "commands": list(names)} for name, names in sections.items()]
    return RichContext(
        _rich_command(command),
        rich_help_config={"command_groups": {context.command_path: groups}} if groups else None,
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
