"""Settings of a program: a flag comes before the environment, that before the file of ``--config``,
that before the user's file, and that before the default. Secrets come from the environment or from
files; they are never shown."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from pilotstack import _config, _files
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Characters of a file with a secret at most.
_MAX_SECRET: Final = 4096
#: Flags that are no settings.
_OTHERS: Final = {"config", "explain_config", "version", "help"}
_FILES: Final = "pilotstack.settings"
_SHOWN_SECRET: Final = "(secret)"


def options(program: str) -> Decorator:
    """Gives a command ``--config``, the user's file, and ``--explain-config``. It must stand above
    the other flags.

    Args:
        program: as :data:`pilotstack._config.PROGRAMS` has it.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, explain_config: bool, **settings: Any) -> Any:
            context = click.get_current_context()
            if explain_config:
                print_explanation(context, program)
                return None
            _warn(context, settings)
            return function(*arguments, **settings)

        run = click.option(
            "--explain-config",
            is_flag=True,
            help="Print each setting, its value and where it comes from as JSON, and end.",
        )(run)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            callback=functools.partial(_read_files, program),
            is_eager=True,
            expose_value=False,
            help="File of settings, JSON or TOML: the flags below without their dashes. A flag "
            "comes before the environment, that before this file, that before config.json or "
            "config.toml in ~/.pilot.",
        )(run)

    return decorate


def _read_files(
    program: str, context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Takes the defaults of flags from the files."""
    del parameter
    params = settings_of(context.command.params)
    kinds = kinds_of(params)
    apply(context, params, read_files(program, kinds, path, kinds))
    return path


def read_files(
    program: str, kinds: Mapping[str, type], path: Path | None, known: Mapping[str, type]
) -> list[_config.Loaded]:
    """The settings of a program in the user's file, and in the file that was named.

    Args:
        program: the program.
        kinds: its settings.
        path: the file that was named.
        known: what that may hold.

    Raises:
        InvalidArgument: a file has a key or a type that it cannot have.
    """
    files = [_config.load_user(program, kinds)]
    if path is not None:
        try:
            files.append(_config.load(path, program, known))
        except FileNotFoundError as error:
            raise InvalidArgument(
                f"cannot read {path}: {error.strerror}", hint="check the path after --config"
            ) from error
    return files


def apply(
    context: click.Context, params: Mapping[str, click.Parameter], files: list[_config.Loaded]
) -> None:
    """Makes values of files the defaults of a command's flags.

    Raises:
        InvalidArgument: a flag does not take its value.
    """
    defaults = {}
    for file in files:
        for name in file.settings.keys() & params.keys():
            value = file.settings[name]
            _check(context, params[name], file.path, name, value)
            defaults[params[name].name or name] = value
    context.default_map = defaults
    context.meta[_FILES] = files


def _check(
    context: click.Context,
    parameter: click.Parameter,
    path: Path,
    name: str,
    value: _config.Setting,
) -> None:
    """Raises if the flag would not take the value."""
    try:
        parameter.type_cast_value(context, value)
    except click.BadParameter as error:
        key = name.replace("_", "-")
        raise InvalidArgument(f"{path}: {key!r}: {error.message.rstrip('.')}") from error


def settings_of(params: Iterable[click.Parameter]) -> dict[str, click.Parameter]:
    """The flags of a command that are settings, by what is typed for them, with ``_``."""
    found: dict[str, click.Parameter] = {}
    for parameter in params:
        if isinstance(parameter, click.Option) and parameter.name not in _OTHERS:
            flag = next(name for name in parameter.opts if name.startswith("--"))
            found[flag[2:].replace("-", "_")] = parameter
    return found


def params_of(options: Iterable[Decorator]) -> list[click.Parameter]:
    """The flags that decorators give to a command."""

    def nothing() -> None:
        pass

    command: Callable[..., Any] = nothing
    for option in reversed(list(options)):
        command = option(command)
    return click.command()(command).params


def kinds_of(params: Mapping[str, click.Parameter]) -> dict[str, type]:
    """The types of their values in a file."""
    return {name: kind_of(parameter) for name, parameter in params.items()}


def kind_of(parameter: click.Parameter) -> type:
    """The type of a flag's value in a file."""
    if parameter.multiple:
        return list
    if isinstance(parameter.type, click.IntRange):
        return int
    if isinstance(parameter.type, click.FloatRange):
        return float
    return bool if getattr(parameter, "is_flag", False) else str


def _warn(context: click.Context, settings: Mapping[str, Any]) -> None:
    files: list[_config.Loaded] = context.meta.get(_FILES, [])
    warnings = [warning for file in files for warning in file.warnings]
    if not warnings:
        return
    # Commands that log nothing import these modules in vain. The program sets the log up again.
    from pilotstack import _events, _logs

    if settings.get("log_level") in _logs.LEVELS:
        _logs.configure(settings["log_level"], settings.get("log_format", "text"))
    log = _events.get_logger(__name__)
    for warning in warnings:
        log.warning("unknown_setting", error=warning.message, hint=warning.hint)


def print_explanation(context: click.Context, program: str) -> None:
    """Prints the settings of a command and their origins as a line of JSON."""
    report = {"program": program, "settings": explanation(context)}
    sys.stdout.write(json.dumps(report) + "\n")


def explanation(context: click.Context) -> list[dict[str, object]]:
    """Each setting of a command that was parsed: name, value, origin, and the file or variable."""
    rows = []
    for name, parameter in settings_of(context.command.params).items():
        origin, source = _origin(context, name, parameter)
        value = context.params.get(parameter.name or name, "")
        row: dict[str, object] = {"name": name.replace("_", "-"), "value": shown(name, value)}
        rows.append(row | {"origin": origin} | ({"source": source} if source else {}))
    return rows


def shown(name: str, value: object) -> object:
    """The value of a setting as JSON; of a secret only whether there is one."""
    if _config.is_secret(name):
        return _SHOWN_SECRET if value else ""
    if isinstance(value, tuple | list):
        return [str(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _origin(context: click.Context, name: str, parameter: click.Parameter) -> tuple[str, str]:
    match context.get_parameter_source(parameter.name or name):
        case ParameterSource.COMMANDLINE:
            return "flag", max(parameter.opts, key=len)
        case ParameterSource.ENVIRONMENT:
            return "environment", _variable(context, name, parameter)
        case ParameterSource.DEFAULT_MAP:
            files: list[_config.Loaded] = context.meta.get(_FILES, [])
            having = [file for file in files if name in file.settings]
            is_user = having[-1] is files[0]
            return "user file" if is_user else "config file", str(having[-1].path)
        case _:
            return "default", ""


def _variable(context: click.Context, name: str, parameter: click.Parameter) -> str:
    if isinstance(parameter.envvar, str):
        return parameter.envvar
    return f"{context.auto_envvar_prefix}_{(parameter.name or name).upper()}"


def read_secret(path: Path) -> str:
    """The secret in a file, without white space around it.

    Raises:
        InvalidArgument: the file cannot be read, or holds no text.
    """
    try:
        return _files.read_regular(path, _MAX_SECRET).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidArgument(
            f"cannot read the secret in {path}: {reason}", hint="check the path and who may read it"
        ) from error


def secret(value: str, path: Path | None) -> str:
    """A secret that is given by itself or by its file."""
    return read_secret(path) if path is not None else value
