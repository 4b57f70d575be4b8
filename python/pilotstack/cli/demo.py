"""``pilotctl demo``: a network on this machine that is set up, used and removed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import click

from pilotstack import _commands
from pilotstack.cli import demo_nat
from pilotstack.cli.context import asynchronous, global_options
from pilotstack.cli.demo_steps import STEPS, Demo, share_network
from pilotstack.client import Driver
from pilotstack.errors import InternalError
from pilotstack.testing import Network

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings


@_commands.command()
@click.option(
    "--nat",
    "has_nat",
    is_flag=True,
    help="Put two agents behind two NATs instead, in network namespaces; needs root.",
)
@global_options
@asynchronous
async def demo(settings: Settings, has_nat: bool) -> None:
    """Run the whole stack on an embedded loopback network, and clean up."""
    output = settings.output
    run = Demo(output)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            await tasks.start(_end_on_signal, scope)
            await (demo_nat.steps(run) if has_nat else _steps(run))
            run.is_over = True
        tasks.cancel_scope.cancel()
    if not run.is_over:
        raise InternalError("the demo was interrupted", hint="everything was cleaned up")
    output.success(
        {"steps": run.steps, "ok": True},
        lambda screen: screen.print("everything works", style="bold green"),
    )


async def _end_on_signal(
    scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Cancels what runs in a scope; further signals do not disturb its cleaning up."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _steps(run: Demo) -> None:
    with Network() as network:
        await _on_loopback(network, run)


async def _on_loopback(network: Network, run: Demo) -> None:
    run.done("rendezvous", f"registry on {network.registry}", registry=network.registry)
    nodes = [network.start(name, public=False) for name in ("agent-a", "agent-b", "agent-c")]
    run.done(
        "daemons",
        ", ".join(f"{node.name} is {node.address}" for node in nodes) + ", all private",
        addresses={node.name: node.address for node in nodes},
    )
    a, b, c = (Driver(node.socket) for node in nodes)
    async with a, b, c:
        for step in STEPS:
            await step(a, b, run)
        await share_network(a, b, c, run)


COMMANDS = (demo,)
