"""Decorators and helpers of commands: global options, running them, targets."""

from __future__ import annotations

import functools
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import click

from pilotstack import _commands, _config, _flags, _settings
from pilotstack.cli.outcome import status_of, unexpected
from pilotstack.cli.output import exit_status
from pilotstack.cli.settings import Settings
from pilotstack.errors import InvalidArgument, PilotError
from pilotstack.types import Address, parse_host, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pilotstack.client import Driver

P = ParamSpec("P")

#: Settings that pilotctl takes from files, and their types.
SETTINGS: Final[dict[str, type]] = {
    "socket": str,
    "registry": list,
    "registry_tls": bool,
    "registry_trust": str,
    "registry_fingerprint": str,
    "beacon": list,
    "names": str,
    "admin_token": str,
    "recovery_secret": str,
}


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def _read_config(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Takes the defaults of flags that pilotctl itself heeds from the files of settings: those that
    have a variable. Flags for another program are left to that, which reads the same files."""
    del parameter
    settings = context.ensure_object(Settings)
    settings.config = path or settings.config
    params = {
        name: each
        for name, each in _settings.settings_of(context.command.params).items()
        if name in SETTINGS and each.envvar
    }
    if params or path:
        _settings.apply(context, params, setting_files(settings))
    return path


def setting_files(settings: Settings) -> list[_config.Loaded]:
    """The settings of pilotctl in the user's file, and in the file that was named, which may hold
    those of the daemon, too.

    Raises:
        InvalidArgument: a file has a key or a value that it cannot have.
    """
    known: dict[str, type] = dict(SETTINGS)
    if settings.config is not None:
        from pilotstack.daemon.flags import FLAGS

        daemon = _settings.settings_of(_settings.params_of(flag.option() for flag in FLAGS))
        known = _settings.kinds_of(daemon)
    return _settings.read_files("pilotctl", SETTINGS, settings.config, known)


def global_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--socket``, ``--config`` and ``--json``, accepted before and after the command's name."""
    command = click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=None,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="File of settings, JSON or TOML (PILOT_CONFIG).",
    )(command)
    command = click.option(
        "--json/--no-json",
        "is_json",
        default=None,
        expose_value=False,
        callback=_keep,
        help="JSON on stdout; the default unless it is a terminal.",
    )(command)
    return click.option(
        "--socket",
        type=click.Path(path_type=Path),
        default=None,
        expose_value=False,
        callback=_keep,
        help="The daemon's socket (PILOT_SOCKET).",
    )(command)


#: ``--registry`` and how it is recognized, for commands that ask the registry themselves.
registry_options = _flags.registry_options(expose_value=False, callback=_keep)


class Group(_commands.Group):
    """A group of commands. Without a subcommand it prints help for people, an error for
    programs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments of the group."""
        if not args and not ctx.resilient_parsing and not self.invoke_without_command:
            if ctx.ensure_object(Settings).output.is_json:
                raise click.UsageError("a command is missing", ctx)
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit(exit_status(InvalidArgument.code))
        return super().parse_args(ctx, args)


def reported(function: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
    """Decorates a command: a :exc:`PilotError` is printed and decides the exit status."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        assert context is not None, "commands run in a context"
        settings = context.ensure_object(Settings)
        if status := status_of(settings, lambda: function(settings, *args, **kwargs)):
            context.exit(status)

    return wrapper


def asynchronous(
    function: Callable[Concatenate[Settings, P], Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """Decorates a coroutine as :func:`reported` does a function."""

    def run(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> None:
        # Imported here so that commands without an event loop start faster.
        import anyio

        async def main() -> None:
            try:
                await function(settings, *args, **kwargs)
            except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
                if isinstance(error, PilotError | OSError):
                    raise
                raise unexpected(error) from error

        gc.enable()
        try:
            anyio.run(main)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    functools.update_wrapper(run, function)
    return reported(run)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def find(driver: Driver, target: str) -> Address:
    """The address of an address, node id or hostname."""
    host = parse_host(target)
    return host if isinstance(host, Address) else (await driver.resolve(host)).address


def split_target(target: str, port: int | None, default: int | None = None) -> tuple[str, int]:
    """Host and port of ``HOST PORT`` or ``HOST:PORT``.

    Raises:
        InvalidArgument: no port is given, or two are.
    """
    try:
        parse_target(target)
    except InvalidArgument:
        chosen = port if port is not None else default
        if chosen is None:
            raise InvalidArgument(
                f"no port for {target!r}", hint="give it after the target, or as agent-b:80"
            ) from None
        return target, chosen
    if port is not None:
        raise InvalidArgument(f"{target!r} has a port already", hint="leave one of the two out")
    host, _, number = target.rpartition(":")
    return host, int(number)
