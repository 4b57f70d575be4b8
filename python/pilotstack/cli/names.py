"""Names of the nameserver on the overlay: register, give up, look up, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio
import click

from pilotstack import _commands
from pilotstack.cli.context import asynchronous, find, global_options
from pilotstack.cli.durations import Duration
from pilotstack.errors import ConnectionFailed, InvalidArgument, TimedOut
from pilotstack.services.nameserver.client import Names
from pilotstack.services.nameserver.records import (
    KINDS,
    Kind,
    NameRecord,
    NetworkRecord,
    Record,
    ServiceRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver

#: Seconds between registrations with ``--keep``; a third of the time that servers keep a record.
KEEP_EVERY = 100.0
_MAX_NETWORK = 0xFFFF

_TYPE = click.option(
    "--type",
    "kind",
    type=click.Choice(KINDS, case_sensitive=False),
    metavar="[A|N|S]",
    default="A",
    show_default=True,
    help="A is a name of a node, N of a network, S a service.",
)
_NETWORK = click.option(
    "--network", help="Of a service, by id or by its name at the nameserver; the backbone is 0."
)
_PORT = click.option("--port", type=click.IntRange(0, 65_535), help="Of a service.")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--timeout", type=Duration(), default=10.0, show_default="10s", help="For each answer."
    )(command)
    return click.option(
        "--names",
        "server",
        default="",
        envvar="PILOT_NAMES",
        help="The nameserver: address, node id or hostname; the node called nameserver, or else "
        "0:0000.0000.0003, unless given (PILOT_NAMES).",
    )(command)


def described(record: Record) -> dict[str, object]:
    """A record as JSON."""
    match record:
        case NameRecord(name, address):
            return {"type": "A", "name": name, "address": str(address)}
        case NetworkRecord(name, network):
            return {"type": "N", "name": name, "network": network}
        case ServiceRecord(name, address, network, port):
            of = {"type": "S", "name": name, "address": str(address)}
            return of | {"network": network, "port": port}


async def _network_of(names: Names, text: str | None) -> int:
    """The network that a flag names.

    Raises:
        InvalidArgument: it is missing.
        NotFound: the nameserver does not know it.
    """
    if text is None:
        raise InvalidArgument("a network is missing", hint="give it with --network")
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_NETWORK)):
        if int(text) > _MAX_NETWORK:
            raise InvalidArgument(f"there is no network {text}", hint="see: pilotctl network list")
        return int(text)
    return await names.network(text)


def _needed(port: int | None) -> int:
    if port is None:
        raise InvalidArgument("a port is missing", hint="give it with --port")
    return port


@_commands.command("name-register")
@click.argument("name")
@click.argument("value", metavar="[ADDRESS|NETWORK]", required=False)
@_TYPE
@_NETWORK
@_PORT
@click.option("--keep", is_flag=True, help="Register it again and again, until interrupted.")
@_options
@global_options
@asynchronous
async def name_register(
    settings: Settings,
    name: str,
    value: str | None,
    kind: str,
    network: str | None,
    port: int | None,
    keep: bool,
    server: str,
    timeout: float,
) -> None:
    """Register a name for this node, for five minutes.

    With --type N the name stands for NETWORK, of which this node is a member; with --type S for a
    service of this node in --network at --port. The address is this node's unless given.
    """
    async with settings.driver() as driver:
        names = Names(driver, server, timeout=timeout)
        record = await _record(driver, names, name, value, kind.upper(), network, port)
        await names.register(record)
        data = described(record) | {"nameserver": str(await names.find())}
        text = f"{name} is registered"
        if not keep:
            settings.output.success(data, lambda screen: screen.print(text))
            return
        settings.output.line(data, text)
        await keep_registered(names, record, settings.output.step)


async def keep_registered(
    names: Names, record: Record, tell: Callable[[str], object], every: float = KEEP_EVERY
) -> None:
    """Registers a record again and again, until cancelled. A nameserver that cannot be reached is
    tried again.

    Args:
        tell: told of failures.
        every: seconds.

    Raises:
        PilotError: the nameserver refuses: somebody else has the name now.
    """
    while True:
        await anyio.sleep(every)
        try:
            await names.register(record)
        except (ConnectionFailed, TimedOut) as error:
            tell(f"{record.name} was not registered again: {error.message}")


async def _record(
    driver: Driver,
    names: Names,
    name: str,
    value: str | None,
    kind: str,
    network: str | None,
    port: int | None,
) -> Record:
    if kind == "N":
        return NetworkRecord(name, await _network_of(names, value or network))
    address = await find(driver, value) if value else (await driver.info()).address
    if kind == "A":
        return NameRecord(name, address)
    return ServiceRecord(name, address, await _network_of(names, network or "0"), _needed(port))


@_commands.command("name-unregister")
@click.argument("name")
@_TYPE
@_NETWORK
@_PORT
@_options
@global_options
@asynchronous
async def name_unregister(
    settings: Settings,
    name: str,
    kind: str,
    network: str | None,
    port: int | None,
    server: str,
    timeout: float,
) -> None:
    """Give a name of this node up."""
    chosen = cast("Kind", kind.upper())
    async with settings.driver() as driver:
        names = Names(driver, server, timeout=timeout)
        where = (0, 0)
        if chosen == "S":
            where = await _network_of(names, network or "0"), _needed(port)
        await names.unregister(chosen, name, *where)
    settings.output.success(
        {"name": name, "type": chosen}, lambda screen: screen.print(f"{name} is given up")
    )


@_commands.command()
@click.argument("name", metavar="NAME|NETWORK")
@_TYPE
@_PORT
@_options
@global_options
@asynchronous
async def resolve(
    settings: Settings, name: str, kind: str, port: int | None, server: str, timeout: float
) -> None:
    """Ask the nameserver what is behind a name; with --type S, who offers --port in NETWORK.

    The nameserver also knows the hostnames of the registry.
    """
    async with settings.driver() as driver:
        names = Names(driver, server, timeout=timeout)
        match kind.upper():
            case "A":
                address = await names.resolve(name)
                _show(settings, {"name": name, "address": str(address)}, str(address))
            case "N":
                network = await names.network(name)
                _show(settings, {"name": name, "network": network}, str(network))
            case _:
                at = await _network_of(names, name), _needed(port)
                _show_records(settings, await names.services(*at))


def _show(settings: Settings, data: dict[str, object], text: str) -> None:
    settings.output.success(data, lambda screen: screen.print(text))


@_commands.command("name-list")
@_options
@global_options
@asynchronous
async def name_list(settings: Settings, server: str, timeout: float) -> None:
    """List the names that this node has at the nameserver."""
    async with settings.driver() as driver:
        _show_records(settings, await Names(driver, server, timeout=timeout).list())


def _show_records(settings: Settings, records: tuple[Record, ...]) -> None:
    rows = [described(record) for record in records]
    columns = {each: each for each in ("type", "name", "address", "network", "port")}

    def render(screen: Screen) -> None:
        screen.rows("Records", columns, rows)

    settings.output.success({"records": rows}, render)


COMMANDS = (name_register, name_unregister, resolve, name_list)
