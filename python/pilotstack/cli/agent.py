"""Commands about this node and others: names, visibility, what the daemon knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands
from pilotstack.cli.context import Settings, asynchronous, global_options, registry_options
from pilotstack.client import _frames as frames
from pilotstack.errors import NotFound
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen

PEERS = {
    "node_id": "node",
    "endpoint": "endpoint",
    "encrypted": "encrypted",
    "authenticated": "authenticated",
}
CONNECTIONS = {
    "id": "id",
    "state": "state",
    "local_port": "port",
    "remote_addr": "remote",
    "remote_port": "port",
    "bytes_sent": "sent",
    "bytes_recv": "received",
    "srtt_ms": "rtt ms",
    "retransmits": "retransmits",
    "cong_win": "window",
}


@_commands.command()
@global_options
@asynchronous
async def info(settings: Settings) -> None:
    """Show this node: address, identity, peers, connections."""
    async with settings.driver() as driver:
        data = await driver.call(frames.INFO)

    def render(screen: Screen) -> None:
        screen.fields(data)
        if data["peer_list"]:
            screen.rows("peers", PEERS, data["peer_list"])
        if data["conn_list"]:
            screen.rows("connections", CONNECTIONS, data["conn_list"])

    settings.output.success(data, render)


@_commands.command()
@click.option("--search", default="", help="Only peers whose id or endpoint contains this.")
@global_options
@asynchronous
async def peers(settings: Settings, search: str) -> None:
    """List nodes that this one has tunnels to."""
    async with settings.driver() as driver:
        listed = (await driver.call(frames.INFO))["peer_list"]
    found = [row for row in listed if search in str(row["node_id"]) or search in row["endpoint"]]
    data = {
        "peers": found,
        "total": len(found),
        "encrypted": sum(row["encrypted"] for row in found),
    }
    settings.output.success(data, lambda screen: screen.rows("peers", PEERS, found))


@_commands.command()
@global_options
@asynchronous
async def connections(settings: Settings) -> None:
    """List this node's connections."""
    async with settings.driver() as driver:
        listed = (await driver.call(frames.INFO))["conn_list"]
    data = {"connections": listed, "total": len(listed)}
    settings.output.success(data, lambda screen: screen.rows("connections", CONNECTIONS, listed))


@_commands.command()
@click.argument("conn_id", type=click.IntRange(1, 2**32 - 1))
@global_options
@asynchronous
async def disconnect(settings: Settings, conn_id: int) -> None:
    """End a connection of any program."""
    async with settings.driver() as driver:
        info = await driver.info()
        is_complete = len(info.conn_list) >= info.connections
        if is_complete and all(row.id != conn_id for row in info.conn_list):
            raise NotFound(f"no connection {conn_id}", hint="see: pilotctl connections")
        await driver.disconnect(conn_id)
    settings.output.success({"conn_id": conn_id})


@_commands.command("find")
@click.argument("hostname")
@global_options
@asynchronous
async def find_name(settings: Settings, hostname: str) -> None:
    """Find the address behind a hostname."""
    async with settings.driver() as driver:
        found = await driver.resolve(hostname)
    settings.output.success(
        {
            "hostname": hostname,
            "node_id": found.node_id,
            "address": str(found.address),
            "public": found.public,
        }
    )


@_commands.command("set-hostname")
@click.argument("name")
@global_options
@asynchronous
async def set_hostname(settings: Settings, name: str) -> None:
    """Take a name that others can dial."""
    await _set_hostname(settings, name)


@_commands.command("clear-hostname")
@global_options
@asynchronous
async def clear_hostname(settings: Settings) -> None:
    """Give up this node's name."""
    await _set_hostname(settings, "")


async def _set_hostname(settings: Settings, name: str) -> None:
    async with settings.driver() as driver:
        data = await driver.call(frames.SET_HOSTNAME, name.encode())
    settings.output.success(data)


@_commands.command("set-public")
@global_options
@asynchronous
async def set_public(settings: Settings) -> None:
    """Let everybody reach this node."""
    await _set_visibility(settings, public=True)


@_commands.command("set-private")
@global_options
@asynchronous
async def set_private(settings: Settings) -> None:
    """Let only trusted nodes reach this one."""
    await _set_visibility(settings, public=False)


async def _set_visibility(settings: Settings, *, public: bool) -> None:
    async with settings.driver() as driver:
        data = await driver.call(frames.SET_VISIBILITY, bytes((public,)))
    settings.output.success(data)


@_commands.command()
@click.argument("target")
@registry_options
@global_options
@asynchronous
async def lookup(settings: Settings, target: str) -> None:
    """Ask the registry about a node, by id, address or hostname."""
    host = parse_host(target)
    client = settings.registry_client()
    try:
        if isinstance(host, Address):
            node_id = host.node
        else:
            found: dict[str, Any] = await client.resolve_hostname(host)
            node_id = int(found["node_id"])
        data = await client.lookup(node_id)
    finally:
        await client.aclose()
    settings.output.success(data)


COMMANDS = (
    *(info, peers, connections, disconnect, find_name, set_hostname, clear_hostname),
    *(set_public, set_private, lookup),
)
