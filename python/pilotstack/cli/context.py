"""What every command shares: global options, the daemon's session, errors."""

from __future__ import annotations

import functools
import gc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import anyio
import click

from pilotstack import _commands, _flags, wellknown
from pilotstack.cli.output import Output, exit_status
from pilotstack.errors import (
    InternalError,
    InvalidArgument,
    NotFound,
    PilotError,
    TimedOut,
    Unavailable,
)
from pilotstack.types import Address, parse_host, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from pilotstack.client import Driver
    from pilotstack.registry.client import RegistryClient, Signer

P = ParamSpec("P")


#: What daemons of either older generation answer to a request that they do not know.
_UNKNOWN_VERB = re.compile(r"\bunknown (sub-?)?command\b")


@dataclass(slots=True)
class Settings:
    """The global options."""

    socket: Path | None = None
    is_json: bool | None = None
    registry: tuple[str, ...] = ()
    registry_tls: bool = False
    registry_trust: str = "pinned"
    registry_fingerprint: str = ""

    @property
    def output(self) -> Output:
        """The printer."""
        return Output(self.is_json)

    def driver(self) -> Driver:
        """A session with the daemon, to be entered."""
        from pilotstack.client import Driver

        return Driver(self.socket or wellknown.default_socket())

    def registry_client(self, signer: Signer | None = None) -> RegistryClient:
        """A client of the registry that :data:`registry_options` name; the caller closes it.

        Raises:
            InvalidArgument: they make no sense.
        """
        from pilotstack.registry.client import RegistryClient, parse_addresses, trust_of

        trust = trust_of(
            is_tls=self.registry_tls,
            mode=self.registry_trust,
            fingerprints=self.registry_fingerprint,
        )
        return RegistryClient(parse_addresses(self.registry), signer, tls=trust)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def global_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--socket`` and ``--json``, accepted before and after the command's name."""
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


class Incomplete(Exception):
    """A command failed after it had found something.

    Args:
        failure: why.
        data: what it found, in the shape of a success.
    """

    def __init__(self, failure: PilotError, data: Mapping[str, Any]) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.data = data


class Group(_commands.Group):
    """A group of commands: without one, people see its help and programs an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but for a program."""
        if not args:
            if ctx.ensure_object(Settings).output.is_json:
                raise click.UsageError("a command is missing", ctx)
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit(exit_status(InvalidArgument.code))
        return super().parse_args(ctx, args)


def reported(function: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
    """Runs a command; an error of ours is printed and ends it with the status of its code."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        assert context is not None, "commands run in a context"
        settings = context.ensure_object(Settings)
        try:
            function(settings, *args, **kwargs)
        except BrokenPipeError:
            # Whoever read our output has seen enough.
            raise
        except Incomplete as error:
            settings.output.failure(error.failure, error.data)
            context.exit(exit_status(error.failure.code))
        except (PilotError, OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            failure = _failure(error)
            settings.output.failure(failure)
            context.exit(exit_status(failure.code))
        except UnicodeEncodeError as error:
            settings.output.failure(
                InvalidArgument(f"not text: {error.object!r}", hint="arguments are UTF-8")
            )
            context.exit(exit_status(InvalidArgument.code))

    return wrapper


def _failure(error: Exception) -> PilotError:
    match error:
        case PilotError() if _UNKNOWN_VERB.search(error.message):
            return Unavailable(
                f"the daemon does not know this command ({error.message})",
                hint="it is an older one; update it, or see: pilotctl info",
            )
        case PilotError():
            return error
        case TimeoutError():
            return TimedOut("no answer in time", hint="raise --timeout")
        case OSError() if error.filename is not None:
            return InternalError(f"{error.filename}: {error.strerror}")
        case _:
            return InternalError(str(error) or type(error).__name__)


def asynchronous(
    function: Callable[Concatenate[Settings, P], Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """As :func:`reported`, for a coroutine."""

    def run(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await function(settings, *args, **kwargs)

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
        InvalidArgument: there is no port, or there are two.
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


async def find_network(driver: Driver, name: str) -> int:
    """The id of a network by its id or name.

    Raises:
        NotFound: no network has this name.
    """
    if name.isascii() and name.isdecimal():
        if int(name) > _MAX_NETWORK:
            raise InvalidArgument(f"no such network: {name}", hint="ids are 0 to 65,535")
        return int(name)
    found = [network.id for network in await driver.networks() if network.name == name]
    if not found:
        raise NotFound(f"no network is called {name!r}", hint="see: pilotctl network list")
    return found[0]


_MAX_NETWORK = 0xFFFF
