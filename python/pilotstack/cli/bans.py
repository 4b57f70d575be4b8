"""``pilotctl ban`` and ``unban``: the operator keeps a key off the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilotstack import _commands
from pilotstack.cli.context import asynchronous, global_options, registry_options
from pilotstack.errors import InvalidArgument
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings

_ADMIN_TOKEN = click.option(
    "--admin-token", default="", envvar="PILOT_ADMIN_TOKEN", help="The registry's."
)


@_commands.command()
@click.argument("target", metavar="NODE")
@_ADMIN_TOKEN
@registry_options
@global_options
@asynchronous
async def ban(settings: Settings, /, target: str, admin_token: str) -> None:
    """Take a node off the network, for the operator; its key is refused from now on.

    NODE is an id, address or hostname. All daemons that are connected to the registry are told
    at once, and reset their streams with it.
    """
    await _set(settings, target, admin_token, is_banned=True)


@_commands.command()
@click.argument("target", metavar="NODE")
@_ADMIN_TOKEN
@registry_options
@global_options
@asynchronous
async def unban(settings: Settings, /, target: str, admin_token: str) -> None:
    """Let the key of a node that was banned register again.

    NODE is an id or address: what is banned has no hostname.
    """
    await _set(settings, target, admin_token, is_banned=False)


async def _set(settings: Settings, target: str, token: str, *, is_banned: bool) -> None:
    host = parse_host(target)
    client = settings.registry_client()
    try:
        if isinstance(host, Address):
            node = host.node
        elif is_banned:
            node = int(str((await client.resolve_hostname(host))["node_id"]))
        else:
            raise InvalidArgument(f"no id or address: {target!r}", hint="give the id")
        await (client.ban if is_banned else client.unban)(node, admin_token=token)
    finally:
        await client.aclose()
    text = f"node {node} is {'banned' if is_banned else 'not banned any more'}"
    data = {"node_id": node, "banned": is_banned}
    settings.output.success(data, lambda screen: screen.print(text))


COMMANDS = (ban, unban)
