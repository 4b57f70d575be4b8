"""``pilot-registry`` and ``pilot-rendezvous``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from pilotstack import _flags, _serving, wellknown
from pilotstack.beacon import Beacon
from pilotstack.registry.server import RegistryServer
from pilotstack.registry.store import FileStore, MemoryStore

if TYPE_CHECKING:
    import anyio


async def serve(
    registry_addr: str, beacon_addr: str | None, store_path: Path | None, stopping: anyio.Event
) -> None:
    """Serves until ``stopping`` is set; a beacon too, if it has an address."""
    store = FileStore(store_path) if store_path else MemoryStore()
    host, port = _serving.split_address(registry_addr, default_host="0.0.0.0")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RegistryServer(host, port, store))
        ready = {"registry": _serving.join_address(*server.address)}
        if beacon_addr is not None:
            beacon = stack.enter_context(Beacon(beacon_addr))
            ready["beacon"] = beacon.address
        _serving.announce(**ready)
        await stopping.wait()


LISTEN = click.option(
    "--registry-addr",
    default=f":{wellknown.REGISTRY_PORT}",
    show_default=True,
    help="Where the registry listens (TCP).",
)
STORE = click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File in which the registry survives a restart; without it, it does not.",
)
LEVEL = click.option(
    "--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True
)
FORMAT = click.option(
    "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
)


@click.command()
@LISTEN
@click.option(
    "--beacon-addr",
    default=f":{wellknown.BEACON_PORT}",
    show_default=True,
    help="Where the beacon listens (UDP).",
)
@STORE
@LEVEL
@FORMAT
@click.version_option(wellknown.VERSION)
def rendezvous(
    registry_addr: str, beacon_addr: str, store: Path | None, log_level: str, log_format: str
) -> None:
    """Run registry and beacon in one process: what a network needs to begin with."""
    _serving.configure_logging(log_level, log_format)

    async def main(stopping: anyio.Event) -> None:
        await serve(registry_addr, beacon_addr, store, stopping)

    _serving.run(main)


@click.command()
@LISTEN
@STORE
@LEVEL
@FORMAT
@click.version_option(wellknown.VERSION)
def registry(registry_addr: str, store: Path | None, log_level: str, log_format: str) -> None:
    """Run the registry: who has which address, key, name and endpoint."""
    _serving.configure_logging(log_level, log_format)

    async def main(stopping: anyio.Event) -> None:
        await serve(registry_addr, None, store, stopping)

    _serving.run(main)


def run_rendezvous() -> None:
    """Entry point of ``pilot-rendezvous``."""
    rendezvous(_flags.normalize(sys.argv[1:]))


def run_registry() -> None:
    """Entry point of ``pilot-registry``."""
    registry(_flags.normalize(sys.argv[1:]))
