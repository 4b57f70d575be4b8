"""``pilotctl forward`` and ``expose``: local ports that lead to agents, and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import click

from pilotstack import _commands, _serving
from pilotstack.cli.context import asynchronous, find, global_options
from pilotstack.cli.text import members_of
from pilotstack.cli.traffic import PORT
from pilotstack.errors import InvalidArgument
from pilotstack.types import SocketAddress, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.cli.output import Output
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver
    from pilotstack.services.relaying import Closed, Opened, Refused

#: Descriptors of a connection at most: two sockets, and a pipe in each direction.
_DESCRIPTORS = 6

UDP = click.option("--udp", is_flag=True, help="Carry datagrams instead of streams.")
LIMIT = click.option(
    "--limit",
    type=click.IntRange(1),
    default=None,
    help="How many connections there may be at once; what fits into open files unless given. "
    "A quarter of them may be with one agent.",
)


@_commands.command()
@click.argument("local", metavar="LOCAL")
@click.argument("target", metavar="TARGET:PORT")
@UDP
@LIMIT
@global_options
@asynchronous
async def forward(
    settings: Settings, local: str, target: str, udp: bool, limit: int | None
) -> None:
    """Carry connections to a local port to a port of an agent.

    LOCAL is a port of 127.0.0.1, HOST:PORT, or the path of a Unix socket, which has a slash. It
    runs until it is interrupted; a daemon that starts again is found again.
    """
    from pilotstack.services import forward as forwards
    from pilotstack.services.relaying import Carrier, Relays

    host, port = parse_target(target)
    output = settings.output
    async with _driver(settings) as driver:
        if "/" in local:
            _no_datagrams(udp)
            await driver.forward(local, (host, port))
            _listening(output, local, target)
            await anyio.sleep_forever()
        # A wrong name shows at once.
        found = await find(driver, str(host))
        at = _local(local)
        if udp:
            with forwards.bind_datagrams(*at) as bound:
                _listening(output, _serving.join_address(*bound.getsockname()[:2]), target)
                to = SocketAddress(found, port)
                await forwards.forward_datagrams(bound, to, driver, _teller(output))
        with _serving.listen(*at) as listening:
            _listening(output, _serving.join_address(*listening.getsockname()[:2]), target)
            async with Relays(limit or _room()) as relays:
                carrier = Carrier(driver, relays, _teller(output))
                await forwards.forward_streams(listening, (host, port), carrier)


@_commands.command()
@click.argument("port", type=PORT)
@click.argument("service", metavar="HOST:PORT")
@UDP
@LIMIT
@global_options
@asynchronous
async def expose(settings: Settings, port: int, service: str, udp: bool, limit: int | None) -> None:
    """Carry streams to a port of this node to a local service.

    HOST:PORT may be a port of 127.0.0.1 alone, or the path of a Unix socket, which has a slash. It
    runs until it is interrupted; a daemon that starts again is found again.
    """
    from pilotstack.services import forward as forwards
    from pilotstack.services.relaying import Carrier, Relays

    output = settings.output
    async with _driver(settings) as driver:
        own = SocketAddress((await driver.info()).address, port)
        if "/" in service:
            _no_datagrams(udp)
            async with driver.listen(port, path=service):
                _listening(output, str(own), service)
                await anyio.sleep_forever()
        at = _local(service)
        if udp:
            async with driver.datagram(port) as bound:
                _listening(output, str(own), _serving.join_address(*at))
                await forwards.expose_datagrams(bound, *at, _teller(output))
        async with driver.listen(port) as listener, Relays(limit or _room()) as relays:
            _listening(output, str(own), _serving.join_address(*at))
            carrier = Carrier(driver, relays, _teller(output))
            await forwards.expose_streams(listener, *at, carrier)


def _driver(settings: Settings) -> Driver:
    from pilotstack.client import Driver

    _serving.raise_file_limit()
    return Driver(settings.socket_path, reconnect=True)


def _room() -> int:
    return max(1, _serving.room_for_connections() // _DESCRIPTORS)


def _local(text: str) -> tuple[str, int]:
    """Host and port of ``8080`` or ``HOST:8080``."""
    return _serving.split_address(text if ":" in text else f":{text}")


def _no_datagrams(is_udp: bool) -> None:
    if is_udp:
        raise InvalidArgument(
            "a path carries streams only", hint="use a port of this host with --udp"
        )


def _listening(output: Output, local: str, target: str) -> None:
    event = {"type": "listening", "local": local, "target": target}
    output.line(event, f"{local} -> {target}")


def _teller(output: Output) -> Callable[[Opened | Closed | Refused], None]:
    """Prints events."""
    from pilotstack.services.relaying import Closed, Opened

    def tell(event: Opened | Closed | Refused) -> None:
        match event:
            case Opened():
                text = f"#{event.id} {event.peer} -> {event.target}"
            case Closed():
                text = f"#{event.id} {event.sent} bytes there, {event.received} back"
                text += f": {event.reason}" if event.reason else ""
            case _:
                text = f"{event.peer} -> {event.target} refused: {event.message}"
        output.line(members_of(event), text)

    return tell


COMMANDS = (forward, expose)
