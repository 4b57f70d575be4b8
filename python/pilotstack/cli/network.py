"""``pilotctl network``: who may reach whom; and ``pilotctl broadcast`` to all of them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec
from msgspec import UNSET

from pilotstack import _commands
from pilotstack.cli import direct
from pilotstack.cli.context import Group, global_options, reported
from pilotstack.cli.durations import Duration
from pilotstack.cli.output import moment
from pilotstack.cli.session import address_of
from pilotstack.cli.text import members_of
from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.ipc import network_requests as n

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.session import ControlSession
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc import network_answers as n_answers
    from pilotstack.ipc.layout import Request
    from pilotstack.types import JoinRule

A = TypeVar("A", bound=msgspec.Struct)

#: Port of broadcasts unless another is named, as existing commands have it.
BROADCAST_PORT = 1000
_MAX_NETWORK = 0xFFFF
_TOKEN_BYTES = 18
_MAX_PORT = 0xFFFF
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


def _ask(settings: Settings, request: Request[A]) -> A:
    with settings.session() as session:
        return direct.ask(session, request)


def _ask_of(settings: Settings, target: str, request: Callable[[int], Request[A]]) -> tuple[int, A]:
    """Makes a request about a network; returns the network's id and the answer."""
    with settings.session() as session:
        network_id = find_network(session, target)
        return network_id, direct.ask(session, request(network_id))


def _ask_about(
    settings: Settings, target: str, node: str, request: Callable[[int, int], Request[A]]
) -> A:
    """Makes a request about a node in a network."""
    with settings.session() as session:
        network_id = find_network(session, target)
        return direct.ask(session, request(network_id, address_of(session, node).node))


def find_network(session: ControlSession, name: str) -> int:
    """The id of a network by its id or name.

    Raises:
        NotFound: no network has this name.
    """
    if name.isascii() and name.isdecimal():
        if int(name) > _MAX_NETWORK:
            raise InvalidArgument(f"no such network: {name}", hint="ids are 0 to 65,535")
        return int(name)
    listed = session.ask(n.ListNetworks()).networks or ()
    found = [network.id for network in listed if network.name == name]
    if not found:
        raise NotFound(f"no network is called {name!r}", hint="see: pilotctl network list")
    return found[0]


@network.command("list")
@global_options
@reported
def list_networks(settings: Settings) -> None:
    """List all networks."""
    answer = _ask(settings, n.ListNetworks())
    listed = answer.networks or ()
    settings.output.success(answer, lambda screen: screen.rows("networks", NETWORKS, listed))


@network.command()
@click.argument("name", required=False)
@click.option("--name", "named", help="The same as NAME.")
@JOIN_RULE
@click.option("--token", default="", help="What members must know.")
@click.option("--network-admin-token", default="", help="Will stand in for the owner.")
@click.option("--enterprise", is_flag=True, help="Only owner and admins invite.")
@ADMIN_TOKEN
@global_options
@reported
def create(
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
    request = n.CreateNetwork(
        name=chosen,
        join_rule=join_rule or ("token" if token else "open"),
        token=token,
        admin_token=admin_token,
        network_admin_token=network_admin_token,
        enterprise=enterprise,
    )
    made = _ask(settings, request)
    settings.output.success(
        made, lambda screen: screen.print(f"network {made.network_id} is {made.name}")
    )


@network.command()
@NETWORK
@click.option("--token", default="", help="The network's token, if it has one.")
@global_options
@reported
def join(settings: Settings, target: str, token: str) -> None:
    """Become a member."""
    _, joined = _ask_of(settings, target, lambda network: n.JoinNetwork(network, token))
    settings.output.success(joined, lambda screen: screen.print(f"this node is {joined.address}"))


@network.command()
@NETWORK
@global_options
@reported
def leave(settings: Settings, target: str) -> None:
    """End this node's membership."""
    network_id, answer = _ask_of(settings, target, n.LeaveNetwork)
    settings.output.success(answer, lambda screen: screen.print(f"left network {network_id}"))


@network.command()
@NETWORK
@global_options
@reported
def members(settings: Settings, target: str) -> None:
    """List who is in a network."""
    network_id, answer = _ask_of(settings, target, n.ListMembers)
    shown = [{**members_of(row), "online": row.is_online} for row in answer.nodes or ()]
    title = f"members of network {network_id}"
    settings.output.success(answer, lambda screen: screen.rows(title, MEMBERS, shown))


@network.command()
@NETWORK
@click.argument("node")
@global_options
@reported
def invite(settings: Settings, target: str, node: str) -> None:
    """Let a node become a member; by id, address or hostname."""
    answer = _ask_about(settings, target, node, n.InviteNode)
    settings.output.success(answer, lambda screen: screen.print(f"invited {node}"))


@network.command()
@global_options
@reported
def invites(settings: Settings) -> None:
    """List what this node is invited to."""
    answer = _ask(settings, n.ListInvites())
    shown = [{**members_of(row), "when": moment(row.timestamp)} for row in answer.invites or ()]
    settings.output.success(answer, lambda screen: screen.rows("invites", INVITES, shown))


@network.command()
@NETWORK
@global_options
@reported
def accept(settings: Settings, target: str) -> None:
    """Become a member of a network that one was invited to."""
    network_id, answer = _ask_of(settings, target, lambda network: n.AnswerInvite(network, True))
    settings.output.success(answer, lambda screen: screen.print(f"joined network {network_id}"))


@network.command()
@NETWORK
@global_options
@reported
def reject(settings: Settings, target: str) -> None:
    """Turn an invitation down."""
    _, answer = _ask_of(settings, target, lambda network: n.AnswerInvite(network, False))
    settings.output.success(answer, lambda screen: screen.print("turned down"))


@network.command()
@NETWORK
@ADMIN_TOKEN
@global_options
@reported
def delete(settings: Settings, target: str, admin_token: str) -> None:
    """End a network, for its owner."""
    network_id, answer = _ask_of(
        settings, target, lambda network: n.DeleteNetwork(network, admin_token)
    )
    settings.output.success(answer, lambda screen: screen.print(f"deleted network {network_id}"))


@network.command()
@NETWORK
@click.argument("name")
@ADMIN_TOKEN
@global_options
@reported
def rename(settings: Settings, target: str, name: str, admin_token: str) -> None:
    """Give a network another name, for its owner and admins."""
    network_id, answer = _ask_of(
        settings, target, lambda network: n.RenameNetwork(network, name, admin_token)
    )
    settings.output.success(answer, lambda screen: screen.print(f"network {network_id} is {name}"))


@network.command()
@NETWORK
@click.option(
    "--ttl", type=Duration(), default=None, help="How long it serves, as 30m or 24h; for ever else."
)
@ADMIN_TOKEN
@global_options
@reported
def token(settings: Settings, target: str, ttl: float | None, admin_token: str) -> None:
    """Make a new token to join with, for owner and admins; the one before ends.

    Who is a member stays one. The token is shown once.
    """
    made = secrets.token_urlsafe(_TOKEN_BYTES)
    seconds = 0 if ttl is None else max(1, round(ttl))
    network_id, answer = _ask_of(
        settings, target, lambda number: n.SetJoinToken(number, made, seconds, admin_token)
    )

    def render(screen: Screen) -> None:
        end = f", until {moment(answer.expires)}" if answer.expires else ""
        screen.print(f"pilotctl network join {network_id} --token {made}{end}")

    settings.output.success({**members_of(answer), "token": made}, render)


def _ports(text: str) -> tuple[int, ...]:
    """Ports separated by commas; ``all`` stands for no limit."""
    if text in {"all", ""}:
        return ()
    try:
        ports = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidArgument(f"no ports: {text!r}", hint="for example 7,1001, or all") from error
    if not all(0 < port <= _MAX_PORT for port in ports):
        raise InvalidArgument(f"no port: {text!r}", hint="ports are 1 to 65,535")
    return ports


@network.command()
@NETWORK
@click.option(
    "--allowed-ports",
    help="Ports that members may use with each other, separated by commas; all lifts the limit.",
)
@click.option("--max-members", type=click.IntRange(0, 10_000), help="0 is no limit.")
@click.option("--description", help="Up to 256 bytes.")
@ADMIN_TOKEN
@global_options
@reported
def policy(
    settings: Settings,
    target: str,
    allowed_ports: str | None,
    max_members: int | None,
    description: str | None,
    admin_token: str,
) -> None:
    """Show what a network allows; with options, set it, for owner and admins.

    Daemons refuse streams and datagrams to other ports of their addresses on that network, both
    those that arrive and those that are sent.
    """
    ports = UNSET if allowed_ports is None else _ports(allowed_ports)
    members = UNSET if max_members is None else max_members
    text = UNSET if description is None else description
    is_change = any(given is not UNSET for given in (ports, members, text))

    def request(network_id: int) -> Request[n_answers.Limits]:
        if not is_change:
            return n.GetLimits(network_id)
        return n.SetLimits(network_id, members, ports, text, admin_token)

    network_id, answer = _ask_of(settings, target, request)

    def render(screen: Screen) -> None:
        listed = ", ".join(map(str, answer.allowed_ports or ())) or "all"
        screen.print(f"network {network_id} allows ports: {listed}")
        screen.print(f"members at most: {answer.max_members or 'no limit'}")
        if answer.description:
            screen.print(answer.description)

    settings.output.success(answer, render)


@network.command()
@NETWORK
@click.argument("node")
@global_options
@reported
def role(settings: Settings, target: str, node: str) -> None:
    """Show whether a member is owner, admin or member."""
    answer = _ask_about(settings, target, node, n.GetRole)
    settings.output.success(answer, lambda screen: screen.print(f"{node}: {answer.role}"))


def _about_member(
    verb: str,
    help_text: str,
    done: str,
    request: Callable[[int, int, str], Request[A]],
) -> click.Command:
    @_commands.command(verb, help=help_text)
    @NETWORK
    @click.argument("node")
    @ADMIN_TOKEN
    @global_options
    @reported
    def command(settings: Settings, target: str, node: str, admin_token: str) -> None:
        answer = _ask_about(
            settings,
            target,
            node,
            lambda network_id, node_id: request(network_id, node_id, admin_token),
        )
        settings.output.success(answer, lambda screen: screen.print(f"{node} {done}"))

    return command


for _command in (
    _about_member(
        "kick",
        "End somebody's membership, for owner and admins.",
        "is no member any more",
        n.KickMember,
    ),
    _about_member(
        "promote", "Make a member an admin, for the owner.", "is an admin", n.PromoteMember
    ),
    _about_member(
        "demote", "Make an admin a member, for the owner.", "is a member", n.DemoteMember
    ),
    _about_member(
        "transfer",
        "Make another member the owner, for the owner.",
        "is the owner",
        n.TransferOwnership,
    ),
):
    network.add_command(_command)


@_commands.command()
@NETWORK
@click.argument("text")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=BROADCAST_PORT,
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
@reported
def broadcast(settings: Settings, target: str, text: str, port: int, admin_token: str) -> None:
    """Send one datagram to every other member of a network."""
    _, sent = _ask_of(
        settings, target, lambda network: n.Broadcast(network, port, admin_token, text.encode())
    )

    def render(screen: Screen) -> None:
        count = sent.members
        if count < 0:
            screen.print(f"sent {sent.bytes} bytes")
            return
        screen.print(f"sent {sent.bytes} bytes to {count} member{'s' * (count != 1)}")

    settings.output.success(sent, render)


COMMANDS = (network, broadcast)
