"""What every command shares: global options, the daemon's session, errors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import anyio
import rich_click as click

from pilotstack import _flags, wellknown
from pilotstack.cli.output import Output
from pilotstack.client import Driver
from pilotstack.errors import InternalError, PilotError, TimedOut
from pilotstack.registry.client import RegistryClient, parse_addresses, trust_of
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pilotstack.registry.client import Signer

P = ParamSpec("P")


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
        return Driver(self.socket or wellknown.default_socket())

    def registry_client(self, signer: Signer | None = None) -> RegistryClient:
        """A client of the registry that :data:`registry_options` name; the caller closes it.

        Raises:
            InvalidArgument: they make no sense.
        """
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


def reported(function: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
    """Runs a command; an error of ours is printed and ends it with 1."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        assert context is not None, "commands run in a context"
        settings = context.ensure_object(Settings)
        try:
            function(settings, *args, **kwargs)
        except PilotError as error:
            settings.output.failure(error)
            context.exit(1)
        except TimeoutError:
            settings.output.failure(TimedOut("no answer in time", hint="raise --timeout"))
            context.exit(1)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            settings.output.failure(InternalError(str(error) or type(error).__name__))
            context.exit(1)

    return wrapper


def asynchronous(
    function: Callable[Concatenate[Settings, P], Coroutine[Any, Any, None]],
) -> Callable[P, None]:
    """As :func:`reported`, for a coroutine."""

    def run(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await function(settings, *args, **kwargs)

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
