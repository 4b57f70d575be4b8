"""``pilot-beacon``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pilotstack import _commands, _flags, _serving, wellknown
from pilotstack.beacon import Beacon

if TYPE_CHECKING:
    import anyio


@_commands.command()
@click.option(
    "--listen", default=f":{wellknown.BEACON_PORT}", show_default=True, help="UDP address."
)
@click.option("--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
)
@click.version_option(wellknown.VERSION)
def beacon(listen: str, log_level: str, log_format: str) -> None:
    """Run a beacon: it tells nodes where their datagrams come from."""
    _serving.configure_logging(log_level, log_format)

    async def main(stopping: anyio.Event) -> None:
        with Beacon(listen) as running:
            _serving.announce(beacon=running.address)
            await stopping.wait()

    _serving.run(main)


def run() -> None:
    """Entry point of ``pilot-beacon``."""
    _serving.run_command(beacon, _flags.normalize(sys.argv[1:]))
