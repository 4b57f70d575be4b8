"""``pilot-nameserver``: serves names on port 53 of a node whose daemon runs."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import anyio
import click

from pilotstack import _commands, _flags, _serving, _settings, wellknown
from pilotstack.client import Driver
from pilotstack.services.daemon_check import DaemonCheck
from pilotstack.services.limits import Limited
from pilotstack.services.nameserver.server import DriverDirectory, Nameserver
from pilotstack.services.nameserver.store import Store
from pilotstack.services.nameserver.zone import TTL

if TYPE_CHECKING:
    from pilotstack.http.server import HttpServer

#: Streams at once, in all and of one node.
TOTAL = 256
PER_PEER = 16


@_commands.command(context_settings={"auto_envvar_prefix": "PILOT_NAMESERVER"})
@_settings.options("pilot-nameserver")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="PILOT_SOCKET",
    help="The daemon's socket (PILOT_SOCKET).",
)
@click.option(
    "--port", type=click.IntRange(1, 65_535), default=wellknown.NAME_PORT, show_default=True
)
@click.option("--store", type=click.Path(path_type=Path), help="File that keeps the records.")
@click.option(
    "--ttl",
    type=click.FloatRange(1, 86_400),
    default=TTL,
    show_default=True,
    help="Seconds for which a record is kept after it was registered last.",
)
@click.option(
    "--short-replies",
    is_flag=True,
    help="Answer OK ADDRESS instead of A NAME ADDRESS, for clients that know nothing else.",
)
@click.option(
    "--http",
    default="",
    help="Serve /healthz, /readyz and /metrics at HOST:PORT; port 0 means any.",
)
@click.option("--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
)
@click.version_option(wellknown.VERSION)
def nameserver(
    *,
    socket: Path | None,
    port: int,
    store: Path | None,
    ttl: float,
    short_replies: bool,
    http: str,
    log_level: str,
    log_format: str,
) -> None:
    """Serve names of nodes, networks and services on port 53, through the daemon of this node.

    pilot-daemon --nameserver does so without another process.
    """
    _serving.configure_logging(log_level, log_format)

    async def main(stopping: anyio.Event) -> None:
        dialect: Literal["short", "records"] = "short" if short_replies else "records"
        await _serve(socket, port, Store(store), ttl, dialect, http, stopping)

    _serving.run(main)


async def _serve(
    socket: Path | None,
    port: int,
    store: Store,
    ttl: float,
    dialect: Literal["short", "records"],
    http: str,
    stopping: anyio.Event,
) -> None:
    # Names outlive restarts of the daemon.
    async with Driver(socket, reconnect=True) as driver, AsyncExitStack() as stack:
        server = Nameserver(DriverDirectory(driver), store, ttl=ttl, dialect=dialect)
        handler = Limited(server.handle, driver.abort, total=TOTAL, per_peer=PER_PEER)
        async with driver.listen(port) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(server.keep)
            tasks.start_soon(listener.serve, handler)
            ready: dict[str, object] = {"address": str((await driver.info()).address), "port": port}
            if http:
                check = DaemonCheck(driver)
                tasks.start_soon(_serving.keep_running, "daemon_check", check.run)
                page = await stack.enter_async_context(_page(http, server, handler, check))
                tasks.start_soon(_serving.keep_running, "http", page.serve)
                ready["http"] = _serving.join_address(*page.address)
            _serving.announce(**ready)
            await stopping.wait()
            tasks.cancel_scope.cancel()


def _page(address: str, server: Nameserver, handler: Limited, check: DaemonCheck) -> HttpServer:
    from pilotstack.services.nameserver.monitor import http_server

    return http_server(address, server, handler, check)


def run() -> None:
    """Entry point of ``pilot-nameserver``."""
    _serving.run_command(nameserver, _flags.normalize(sys.argv[1:]))
