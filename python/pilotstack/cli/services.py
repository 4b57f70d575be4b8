"""What a node offers: its status, and the well-known ports that take streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import click
import msgspec

from pilotstack import _commands, wellknown
from pilotstack.cli.context import asynchronous, find, global_options
from pilotstack.cli.durations import Duration
from pilotstack.cli.text import members_of
from pilotstack.errors import ConnectionFailed, ConnectionRefused, PilotError
from pilotstack.services import status as statuses

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver
    from pilotstack.services.status import Status
    from pilotstack.types import Address

#: Ports tried for ``--port`` at most.
_MAX_PORTS = 64
#: Ports tried at once.
_AT_ONCE = 8


class Row(msgspec.Struct):
    """One port."""

    port: int
    name: str
    #: ``open``, ``closed``, or ``no_answer``.
    state: str
    #: The node itself serves it; otherwise a program does.
    builtin: bool


@_commands.command()
@click.argument("target", required=False)
@click.option(
    "--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="Try this port, too."
)
@click.option("--all", "shows_all", is_flag=True, help="Also show ports that are closed.")
@click.option("--timeout", type=Duration(), default=5.0, show_default="5s", help="For each port.")
@global_options
@asynchronous
async def services(
    settings: Settings, target: str | None, ports: tuple[int, ...], shows_all: bool, timeout: float
) -> None:
    """List what a node offers on the well-known ports; this node unless TARGET is given."""
    async with settings.driver() as driver:
        address = await find(driver, target) if target else (await driver.info()).address
        with settings.output.waiting(f"asking {target or address}"):
            status = await _status(driver, address, timeout)
            offered = {row.port for row in status.services} if status is not None else set()
            wanted = {*wellknown.SERVICES, *ports[:_MAX_PORTS]}
            # Reading the status has told of port 1, and a tunnel is alive.
            tried = await _try(driver, address, sorted(wanted - offered - {0, 1}), timeout)
    known = {0: "open", 1: "open" if status is not None else "closed"}
    known |= dict.fromkeys(offered, "open") | tried
    rows = [
        Row(port, wellknown.SERVICES.get(port, ""), state, port in offered)
        for port, state in sorted(known.items())
        if shows_all or state == "open"
    ]
    data = {
        "target": target or str(address),
        "address": str(address),
        "version": status.version if status is not None else None,
        "uptime_secs": status.uptime_secs if status is not None else None,
        "services": [members_of(row) for row in rows],
    }
    columns = {"port": "port", "name": "service", "state": "state", "builtin": "built in"}
    settings.output.success(
        data, lambda screen: screen.rows(f"Services of {target or address}", columns, rows)
    )


async def _status(driver: Driver, address: Address, timeout: float) -> Status | None:
    """What the node tells; ``None`` if it does not.

    Raises:
        ConnectionFailed: it cannot be reached.
    """
    try:
        return await statuses.ask(driver, address, timeout=timeout)
    except ConnectionRefused:
        return None
    except TimeoutError as error:
        raise ConnectionFailed(
            f"{address} does not answer", hint="it may be offline, or private and not trust us"
        ) from error


async def _try(
    driver: Driver, address: Address, ports: list[int], timeout: float
) -> dict[int, str]:
    """Dials each port, and resets the stream at once."""
    states: dict[int, str] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def attempt(port: int) -> None:
        async with limiter:
            try:
                async with driver.dial((address, port), timeout=timeout) as stream:
                    states[port] = "open"
                    await driver.abort(stream)
            except ConnectionRefused:
                states[port] = "closed"
            except (PilotError, TimeoutError):
                states.setdefault(port, "no_answer")

    async with anyio.create_task_group() as tasks:
        for port in ports:
            tasks.start_soon(attempt, port)
    return states


COMMANDS = (services,)
