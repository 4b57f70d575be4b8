"""Commands about what a network says of its members: tags, and its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec import UNSET

from pilotstack.cli.context import Group, global_options, reported
from pilotstack.cli.network import find_network
from pilotstack.cli.session import address_of
from pilotstack.ipc import network_requests as n

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.network_answers import MemberTags

_NETWORK = click.option(
    "--net", "network", metavar="NETWORK", required=True, help="Network, by id or name."
)
_TAGS = {"node": "node", "tags": "tags"}


@click.group("member-tags", cls=Group)
def member_tags() -> None:
    """Tags that a network gives to its members."""


@member_tags.command("get")
@_NETWORK
@click.option("--node", help="Member, by id, address or hostname; all of them unless given.")
@global_options
@reported
def get_tags(settings: Settings, network: str, node: str | None) -> None:
    """Show the tags of members."""
    with settings.session() as session:
        member = address_of(session, node).node if node else 0
        found = session.ask(n.TagMember(False, find_network(session, network), member))
    _show(settings, found)


@member_tags.command("set")
@_NETWORK
@click.option("--node", required=True, help="Member, by id, address or hostname.")
@click.option("--tags", required=True, help="Separated by commas; an empty text takes all away.")
@global_options
@reported
def set_tags(settings: Settings, network: str, node: str, tags: str) -> None:
    """Set the tags of a member, for owner and admins."""
    listed = tuple(part.strip() for part in tags.split(",") if part.strip())
    with settings.session() as session:
        member = address_of(session, node).node
        found = session.ask(n.TagMember(True, find_network(session, network), member, listed))
    _show(settings, found)


def _show(settings: Settings, found: MemberTags) -> None:
    rows = [
        {"node": member, "tags": " ".join(tags)}
        for member, tags in ({} if found.members is UNSET else found.members).items()
    ]
    if found.tags is not UNSET:
        rows.append({"node": str(found.target_node_id), "tags": " ".join(found.tags)})

    def render(screen: Screen) -> None:
        screen.rows(f"tags in network {found.network_id}", _TAGS, rows)

    settings.output.success(found, render)


@click.group(cls=Group)
def policy() -> None:
    """The policy of a network."""


@policy.command("get")
@_NETWORK
@global_options
@reported
def get_policy(settings: Settings, network: str) -> None:
    """Show what carries a network's policy out at this node."""
    with settings.session() as session:
        found = session.ask(n.GetPolicy(0, find_network(session, network)))
    settings.output.success(found)


COMMANDS = (member_tags, policy)
