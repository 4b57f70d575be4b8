"""Every command of ``pilotctl`` as data, read from the parser itself, so that it cannot be out of
date. Programs and agents read it instead of help pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import UNSET, UnsetType

from pilotstack import wellknown
from pilotstack.cli.durations import Duration
from pilotstack.cli.examples import examples_of
from pilotstack.cli.output import EXIT_STATUS
from pilotstack.cli.returns import RETURNS
from pilotstack.cli.sections import by_section

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a ``code`` means; others than these do not occur.
ERROR_CODES: Final = {
    "already_exists": "a name, port or socket is taken",
    "connection_failed": "a peer or the registry cannot be reached; it may work later",
    "connection_refused": "nobody listens on the port",
    "incomplete": "only a part of what was asked for; it is under data",
    "internal": "a defect, or an error without a code of its own",
    "interrupted": "Ctrl-C",
    "invalid_argument": "the command line, or a value in it, is wrong; do not repeat it",
    "not_found": "there is no such name, node, network, request or connection",
    "not_running": "no daemon answers at the socket",
    "permission_denied": "the registry or a peer refuses, or a signature or token is wrong",
    "throttled": "too many requests; it may work later",
    "timeout": "no answer in time, or less than was asked for",
    "unavailable": "the other side does not offer this",
    "unhealthy": "doctor found something that does not work",
}
#: Variables that more than one command, or the program itself, heeds.
ENVIRONMENT: Final = {
    "PILOT_SOCKET": "the daemon's socket",
    "PILOT_SOCKET_UID": "another user whose daemon is trusted",
    "PILOT_REGISTRY": "the registry, host:port",
    "PILOT_HOME": "directory in which .pilot with identity, settings, pid file and log is",
    "PILOT_CONFIG": "file of settings",
    "PILOT_ADMIN_TOKEN": "the registry's or a network's admin token",
    "PILOT_DEBUG": "show where a defect happened",
    "NO_COLOR": "no colours on a terminal",
    "COLUMNS": "width of the output",
}
_DONE: Final = 0


class Argument(msgspec.Struct, omit_defaults=True):
    """An argument by position."""

    name: str
    type: str
    is_required: bool = True
    is_repeated: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()


class Flag(msgspec.Struct, omit_defaults=True):
    """An argument by name."""

    names: tuple[str, ...]
    type: str
    help: str
    #: Names that say the opposite.
    negative: tuple[str, ...] = ()
    is_required: bool = False
    is_repeated: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: float | UnsetType = UNSET
    maximum: float | UnsetType = UNSET
    environment: str = ""


class Entry(msgspec.Struct):
    """A command. ``args`` are for people; ``arguments`` and ``flags`` say the same in full."""

    args: tuple[str, ...]
    description: str
    returns: str
    section: str
    usage: str
    arguments: tuple[Argument, ...]
    flags: tuple[Flag, ...]
    examples: tuple[str, ...]
    help: str


class Catalogue(msgspec.Struct):
    """All commands, and what holds for each of them."""

    version: str
    commands: dict[str, Entry]
    global_flags: dict[str, str]
    error_codes: dict[str, str]
    exit_status: dict[str, int]
    environment: dict[str, str]
    config_file: str = "~/.pilot/config.json"


def catalogue(root: click.Group) -> Catalogue:
    """The catalogue of a parser."""
    return Catalogue(
        version=wellknown.VERSION,
        commands=dict(entries(root)),
        global_flags={
            "--json": "JSON on stdout; the default unless it is a terminal",
            "--socket": "the daemon's socket",
            "--config": "file of settings, JSON or TOML",
        },
        error_codes=ERROR_CODES,
        exit_status={"ok": _DONE, **EXIT_STATUS},
        environment=ENVIRONMENT,
    )


def entries(root: click.Group) -> Iterator[tuple[str, Entry]]:
    """Commands that can be run, by their path without ``pilotctl``."""
    sections = {
        name: section for section, names in by_section(root.commands).items() for name in names
    }
    for path, command, context in walk(root):
        words = path.split()
        yield path, _entry(path, command, context, sections[words[0]])


def walk(root: click.Group) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Commands that can be run: those that are no groups, and groups that do without a command."""
    context = click.Context(root, info_name="pilotctl")
    yield from _below(root, context, ())


def _below(
    group: click.Group, context: click.Context, path: tuple[str, ...]
) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        inside = (*path, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join(inside), command, inner
        if isinstance(command, click.Group):
            yield from _below(command, inner, inside)


def _entry(path: str, command: click.Command, context: click.Context, section: str) -> Entry:
    text = command.help or ""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    flags = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return Entry(
        args=(*(_position(p, context) for p in arguments), *(_short(p) for p in flags)),
        description=" ".join(text.split("\n\n")[0].split()),
        returns=RETURNS.get(path, ""),
        section=section,
        usage=f"pilotctl {path} " + " ".join(command.collect_usage_pieces(context)),
        arguments=tuple(_argument(p) for p in arguments),
        flags=tuple(_flag(p) for p in flags),
        examples=examples_of(path),
        help="\n\n".join(" ".join(part.split()) for part in text.split("\n\n")),
    )


def _position(argument: click.Argument, context: click.Context) -> str:
    name = argument.make_metavar(context).strip("[].").lower()
    more = "..." if argument.nargs < 0 else ""
    return f"<{name}>{more}" if argument.required else f"[{name}]{more}"


def _short(flag: click.Option) -> str:
    name = next((name for name in flag.opts if name.startswith("--")), flag.opts[0])
    shown = name if flag.is_flag else f"{name} <{flag.type.name.split()[0]}>"
    return shown if flag.required else f"[{shown}]"


def _argument(argument: click.Argument) -> Argument:
    return Argument(
        name=argument.name or "",
        type=_type(argument.type),
        is_required=argument.required,
        is_repeated=argument.nargs < 0,
        default=_default(argument),
        choices=_choices(argument.type),
    )


def _flag(flag: click.Option) -> Flag:
    kind = flag.type
    minimum, maximum = _range(kind)
    variable = flag.envvar if isinstance(flag.envvar, str) else ""
    return Flag(
        names=tuple(flag.opts),
        type="flag" if flag.is_flag else _type(kind),
        help=flag.help or "",
        negative=tuple(flag.secondary_opts),
        is_required=flag.required,
        is_repeated=flag.multiple,
        default=_default(flag),
        choices=_choices(kind),
        minimum=minimum,
        maximum=maximum,
        environment=variable,
    )


def _range(kind: click.ParamType[Any]) -> tuple[float | UnsetType, float | UnsetType]:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return UNSET, UNSET
    least, most = kind.min, kind.max
    return UNSET if least is None else least, UNSET if most is None else most


def _type(kind: click.ParamType[Any]) -> str:
    match kind:
        case click.IntRange():
            return "integer"
        case click.FloatRange():
            return "number"
        case click.Choice():
            return "choice"
        case click.Path() | click.File():
            return "path"
        case Duration():
            return "duration"
        case _:
            return kind.name


def _choices(kind: click.ParamType[Any]) -> tuple[str, ...]:
    return tuple(str(each) for each in kind.choices) if isinstance(kind, click.Choice) else ()


def _default(parameter: click.Parameter) -> Any:
    """The default as JSON; ``None`` if there is none, or it is a path or the like."""
    value = parameter.to_info_dict()["default"]
    if isinstance(value, list | tuple):
        return list(value) or None
    return value if isinstance(value, bool | int | float | str) else None
