"""``pilotctl network``: who may reach whom; and ``pilotctl broadcast`` to all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands
from pilotstack.cli.context import (
    Group,
    Settings,
    asynchronous,
    find,
    find_network,
    global_options,
)
from pilotstack.cli.output import moment
from pilotstack.client import networks as calls
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.cli.screen import Screen
    from pilotstack.types import JoinRule

NETWORK = click.argument("target", metavar="NETWORK")
NETWORKS = {
    "id": "id",
    "name": "name",
    "join_rule": "who may join",
    "members": "members",
}
MEMBERS = {
    "node_id": "node",
    "address": "address",
    "hostname": "hostname",
    "role": "role",
    "online": "online",
}
INVITES = {"network_id": "network", "inviter_id": "invited by", "when": "when"}

ADMIN_TOKEN = click.option(
    "--admin-token",
    default="",
    envvar="PILOT_ADMIN_TOKEN",
    help="The registry's or the network's (PILOT_ADMIN_TOKEN).",
)
JOIN_RULE = click.option(
    "--join-rule",
    type=click.Choice(["open", "token", "invite"]),
    default=None,
    help="Who may join: everybody, whoever knows the token, whoever is invited. Open unless there "
    "is a token.",
)


@click.group(cls=Group)
def network() -> None:
    """Networks of agents: members reach each other, others do not.

    NETWORK is an id or a name.
    """


async def _ask(settings: Settings, call: calls.Call) -> dict[str, Any]:
    async with settings.driver() as driver:
        return await driver.call(*call)


async def _ask_of(
    settings: Settings, target: str, call: Callable[[int], calls.Call]
) -> tuple[int, dict[str, Any]]:
    """Asks something of a network; gives its id, too."""
    async with settings.driver() as driver:
        network_id = await find_network(driver, target)
        return network_id, await driver.call(*call(network_id))


async def _ask_about(
    settings: Settings, target: str, node: str, call: Callable[[int, int], calls.Call]
) -> dict[str, Any]:
    """Asks something about a node in a network."""
    async with settings.driver() as driver:
        network_id = await find_network(driver, target)
        return await driver.call(*call(network_id, (await find(driver, node)).node))


@network.command("list")
@global_options
@asynchronous
async def list_networks(settings: Settings) -> None:
    """List all networks."""
    data = await _ask(settings, calls.list_networks())
    listed = data.get("networks") or []
    settings.output.success(data, lambda screen: screen.rows("networks", NETWORKS, listed))


@network.command()
@click.argument("name", required=False)
@click.option("--name", "named", help="The same as NAME.")
@JOIN_RULE
@click.option("--token", default="", help="What members must know.")
@click.option("--network-admin-token", default="", help="Will stand in for the owner.")
@click.option("--enterprise", is_flag=True, help="Only owner and admins invite.")
@ADMIN_TOKEN
@global_options
@asynchronous
async def create(
    settings: Settings,
    name: str | None,
    named: str | None,
    join_rule: JoinRule | None,
    token: str,
    network_admin_token: str,
    enterprise: bool,
    admin_token: str,
) -> None:
    """Make a network that this node owns."""
    chosen = name or named
    if not chosen:
        raise InvalidArgument("a network needs a name", hint="pilotctl network create NAME")
    call = calls.manage(
        "create",
        name=chosen,
        join_rule=join_rule or ("token" if token else "open"),
        token=token,
        admin_token=admin_token,
        network_admin_token=network_admin_token,
        enterprise=enterprise,
    )
    data = await _ask(settings, call)
    settings.output.success(
        data, lambda screen: screen.print(f"network {data['network_id']} is {data['name']}")
    )


@network.command()
@NETWORK
@click.option("--token", default="", help="The network's token, if it has one.")
@global_options
@asynchronous
async def join(settings: Settings, target: str, token: str) -> None:
    """Become a member."""
    _, data = await _ask_of(settings, target, lambda network: calls.join(network, token))
    settings.output.success(data, lambda screen: screen.print(f"this node is {data['address']}"))


@network.command()
@NETWORK
@global_options
@asynchronous
async def leave(settings: Settings, target: str) -> None:
    """End this node's membership."""
    network_id, data = await _ask_of(settings, target, calls.leave)
    settings.output.success(data, lambda screen: screen.print(f"left network {network_id}"))


@network.command()
@NETWORK
@global_options
@asynchronous
async def members(settings: Settings, target: str) -> None:
    """List who is in a network."""
    network_id, data = await _ask_of(settings, target, calls.members)
    shown = [{**row, "online": not row.get("offline")} for row in data.get("nodes") or []]
    title = f"members of network {network_id}"
    settings.output.success(data, lambda screen: screen.rows(title, MEMBERS, shown))


@network.command()
@NETWORK
@click.argument("node")
@global_options
@asynchronous
async def invite(settings: Settings, target: str, node: str) -> None:
    """Let a node become a member; by id, address or hostname."""
    data = await _ask_about(settings, target, node, calls.invite)
    settings.output.success(data, lambda screen: screen.print(f"invited {node}"))


@network.command()
@global_options
@asynchronous
async def invites(settings: Settings) -> None:
    """List what this node is invited to."""
    data = await _ask(settings, calls.invites())
    shown = [{**row, "when": moment(row["timestamp"])} for row in data.get("invites") or []]
    settings.output.success(data, lambda screen: screen.rows("invites", INVITES, shown))


@network.command()
@NETWORK
@global_options
@asynchronous
async def accept(settings: Settings, target: str) -> None:
    """Become a member of a network that one was invited to."""
    network_id, data = await _ask_of(settings, target, lambda network: calls.respond(network, True))
    settings.output.success(data, lambda screen: screen.print(f"joined network {network_id}"))


@network.command()
@NETWORK
@global_options
@asynchronous
async def reject(settings: Settings, target: str) -> None:
    """Turn an invitation down."""
    _, data = await _ask_of(settings, target, lambda network: calls.respond(network, False))
    settings.output.success(data, lambda screen: screen.print("turned down"))


@network.command()
@NETWORK
@ADMIN_TOKEN
@global_options
@asynchronous
async def delete(settings: Settings, target: str, admin_token: str) -> None:
    """End a network, for its owner."""
    network_id, data = await _ask_of(
        settings,
        target,
        lambda network: calls.manage("delete", network, admin_token=admin_token),
    )
    settings.output.success(data, lambda screen: screen.print(f"deleted network {network_id}"))


@network.command()
@NETWORK
@click.argument("name")
@ADMIN_TOKEN
@global_options
@asynchronous
async def rename(settings: Settings, target: str, name: str, admin_token: str) -> None:
    """Give a network another name, for its owner and admins."""
    network_id, data = await _ask_of(
        settings,
        target,
        lambda network: calls.manage("rename", network, name=name, admin_token=admin_token),
    )
    settings.output.success(data, lambda screen: screen.print(f"network {network_id} is {name}"))


def _about_member(verb: str, help_text: str, done: str) -> click.Command:
    @_commands.command(verb, help=help_text)
    @NETWORK
    @click.argument("node")
    @ADMIN_TOKEN
    @global_options
    @asynchronous
    async def command(settings: Settings, target: str, node: str, admin_token: str) -> None:
        def call(network_id: int, node_id: int) -> calls.Call:
            return calls.manage(verb, network_id, node_id=node_id, admin_token=admin_token)

        data = await _ask_about(settings, target, node, call)
        settings.output.success(data, lambda screen: screen.print(f"{node} {done}"))

    return command


for _verb, _help, _done in (
    ("kick", "End somebody's membership, for owner and admins.", "is no member any more"),
    ("promote", "Make a member an admin, for the owner.", "is an admin"),
    ("demote", "Make an admin a member, for the owner.", "is a member"),
    ("transfer", "Make another member the owner, for the owner.", "is the owner"),
):
    network.add_command(_about_member(_verb, _help, _done))


@_commands.command()
@NETWORK
@click.argument("text")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=calls.BROADCAST_PORT,
    show_default=True,
    help="Port that members listen on.",
)
@click.option(
    "--admin-token",
    default="",
    envvar="PILOT_ADMIN_TOKEN",
    help="The daemon's, if it has one (PILOT_ADMIN_TOKEN).",
)
@global_options
@asynchronous
async def broadcast(
    settings: Settings, target: str, text: str, port: int, admin_token: str
) -> None:
    """Send one datagram to every other member of a network."""
    octets = text.encode()
    network_id, reply = await _ask_of(
        settings,
        target,
        lambda network: calls.broadcast(network, octets, port, admin_token),
    )
    data = {
        "network_id": network_id,
        "port": port,
        "bytes": len(octets),
        "members": reply.get("members", 0),
    }

    def render(screen: Screen) -> None:
        count = data["members"]
        screen.print(f"sent {len(octets)} bytes to {count} member{'s' * (count != 1)}")

    settings.output.success(data, render)


COMMANDS = (network, broadcast)
