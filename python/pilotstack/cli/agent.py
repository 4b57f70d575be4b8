"""Commands about this node and others: names, visibility, what the daemon knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from pilotstack import _commands, _config
from pilotstack.cli.context import (
    asynchronous,
    global_options,
    registry_options,
    reported,
)
from pilotstack.cli.session import address_of
from pilotstack.cli.status import show_connections, show_info, show_peers
from pilotstack.errors import NotFound
from pilotstack.ipc import requests as r
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.layout import Request


A = TypeVar("A", bound=msgspec.Struct)


@_commands.command()
@global_options
@reported
def info(settings: Settings) -> None:
    """Show this node: address, identity, peers, connections."""
    show_info(settings)


@_commands.command()
@click.option("--search", default="", help="Only peers whose id or endpoint contains this.")
@click.option("--candidates", is_flag=True, help="Also list the ways that are not in use, and why.")
@global_options
@reported
def peers(settings: Settings, search: str, candidates: bool) -> None:
    """List nodes that this one has tunnels to, and the paths in use."""
    show_peers(settings, search, has_candidates=candidates)


@_commands.command()
@global_options
@reported
def connections(settings: Settings) -> None:
    """List this node's connections."""
    show_connections(settings)


@_commands.command()
@click.argument("conn_id", type=click.IntRange(1, 2**32 - 1))
@global_options
@reported
def disconnect(settings: Settings, conn_id: int) -> None:
    """End a connection of any program."""
    with settings.session() as session:
        info = session.ask(r.GetInfo())
        is_complete = len(info.conn_list) >= info.connections
        if is_complete and all(row.id != conn_id for row in info.conn_list):
            raise NotFound(f"no connection {conn_id}", hint="see: pilotctl connections")
        session.ask(r.Disconnect(conn_id))
    settings.output.success({"conn_id": conn_id})


@_commands.command()
@global_options
@reported
def health(settings: Settings) -> None:
    """Show whether the daemon works, and how much it does."""
    with settings.session() as session:
        found = session.ask(r.GetHealth())
    settings.output.success(found)


@_commands.command("prefer-direct")
@click.argument("target")
@global_options
@reported
def prefer_direct(settings: Settings, target: str) -> None:
    """Ask the registry anew where a node is, and try to reach it without a relay."""
    with settings.session() as session:
        answer = session.ask(r.PreferDirect(address_of(session, target).node))

    def render(screen: Screen) -> None:
        found = answer.resolve_error or "asked the registry anew"
        relayed = "a relay was in use" if answer.was_relay_active else "no relay was in use"
        screen.print(f"node {answer.node_id}: {found}; {relayed}")

    settings.output.success(answer, render)


@_commands.command("find")
@click.argument("hostname")
@global_options
@reported
def find_name(settings: Settings, hostname: str) -> None:
    """Find the address behind a hostname."""
    with settings.session() as session:
        found = session.ask(r.ResolveHostname(hostname))
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
@reported
def set_hostname(settings: Settings, name: str) -> None:
    """Take a name that others can dial.

    If the user's file of settings has a hostname, it is changed there, too.
    """
    _ask(settings, r.SetHostname(name))
    _keep_hostname(name)


@_commands.command("clear-hostname")
@global_options
@reported
def clear_hostname(settings: Settings) -> None:
    """Give up this node's name."""
    _ask(settings, r.SetHostname(""))
    _keep_hostname(None)


def _keep_hostname(name: str | None) -> None:
    """A daemon that starts anew takes the name that stands there."""
    if _config.user_file().suffix == ".json" and _config.text_of("hostname"):
        _config.edit_user({"hostname": name})


@_commands.command("set-public")
@global_options
@reported
def set_public(settings: Settings) -> None:
    """Let everybody reach this node."""
    _ask(settings, r.SetVisibility(True))


@_commands.command("set-private")
@global_options
@reported
def set_private(settings: Settings) -> None:
    """Let only trusted nodes reach this one."""
    _ask(settings, r.SetVisibility(False))


def _ask(settings: Settings, request: Request[A]) -> None:
    with settings.session() as session:
        answer = session.ask(request)
    settings.output.success(answer)


@_commands.command()
@click.argument("target")
@registry_options
@global_options
@asynchronous
async def lookup(settings: Settings, target: str) -> None:
    """Ask the registry about a node, by id, address or hostname."""
    from pilotstack.cli.records import NodeRecord, record_of

    host = parse_host(target)
    client = settings.registry_client()
    try:
        with settings.output.waiting("waiting for the registry"):
            if isinstance(host, Address):
                node_id = host.node
            else:
                found = await client.resolve_hostname(host)
                node_id = record_of(NodeRecord, found).node_id
            record = record_of(NodeRecord, await client.lookup(node_id))
    finally:
        await client.aclose()
    settings.output.success(record)


COMMANDS = (
    *(info, peers, connections, disconnect, find_name, set_hostname, clear_hostname),
    *(set_public, set_private, lookup, health, prefer_direct),
)
