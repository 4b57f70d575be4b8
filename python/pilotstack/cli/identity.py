"""Commands about this node's place in the registry: registration, key, tags."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands, wellknown
from pilotstack.cli.context import Group, Settings, asynchronous, global_options, registry_options
from pilotstack.client import _frames as frames
from pilotstack.client import networks as calls
from pilotstack.daemon import identity as identities
from pilotstack.errors import NotRunning, PermissionDenied

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen

SECRET = click.option(
    "--recovery-secret",
    default="",
    envvar="PILOT_RECOVERY_SECRET",
    help="The secret that was enrolled (PILOT_RECOVERY_SECRET).",
)


async def _call(settings: Settings, command: int, payload: bytes = b"") -> dict[str, Any]:
    async with settings.driver() as driver:
        return await driver.call(command, payload)


@_commands.command()
@global_options
@asynchronous
async def register(settings: Settings) -> None:
    """Put this node on the network again after deregister."""
    data = await _call(settings, frames.REGISTER)
    settings.output.success(data, lambda screen: screen.print(f"this node is {data['address']}"))


@_commands.command()
@global_options
@asynchronous
async def deregister(settings: Settings) -> None:
    """Take this node off the network, and out of its networks; the daemon goes on."""
    data = await _call(settings, frames.DEREGISTER)
    settings.output.success(data, lambda screen: screen.print("deregistered"))


@_commands.command("rotate-key")
@click.argument("node_id", metavar="[NODE]", type=click.IntRange(1, 2**32 - 1), required=False)
@click.argument("owner", required=False)
@SECRET
@click.option(
    "--admin-token", default="", envvar="PILOT_ADMIN_TOKEN", help="The registry's, instead."
)
@click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the recovered node's new key, made if missing; ~/.pilot/identity.json unless "
    "given.",
)
@registry_options
@global_options
@asynchronous
async def rotate_key(
    settings: Settings,
    node_id: int | None,
    owner: str | None,
    recovery_secret: str,
    admin_token: str,
    identity: Path | None,
) -> None:
    """Replace this node's key; or, with NODE, that of a node whose key was lost.

    A lost key takes the recovery secret or the registry's admin token. OWNER is only shown: an
    e-mail address proves nothing.
    """
    if node_id is None or node_id == await _own_id(settings):
        data = await _call(settings, frames.ROTATE_KEY)
    elif recovery_secret or admin_token:
        path = identity or wellknown.home() / "identity.json"
        data = await _recover(settings, node_id, path, recovery_secret, admin_token)
    else:
        raise PermissionDenied(
            f"the key of node {node_id} is not held here"
            + (f", and being {owner} proves nothing" if owner else ""),
            hint="give --recovery-secret (see: pilotctl recovery enroll) or --admin-token",
        )

    def render(screen: Screen) -> None:
        screen.print(f"node {data['node_id']} has the key {data['public_key']}")
        if "identity" in data:
            screen.print(f"start its daemon with --identity {data['identity']}")

    settings.output.success(data, render)


async def _own_id(settings: Settings) -> int:
    try:
        async with settings.driver() as driver:
            return (await driver.info()).node_id
    except NotRunning:
        return 0


async def _recover(
    settings: Settings, node_id: int, path: Path, secret: str, admin_token: str
) -> dict[str, Any]:
    # Before the registry is asked, or a crash could leave the node with a key that nobody has.
    new, is_new = _identity_of(path)
    client = settings.registry_client(new)
    try:
        reply = await client.recover_identity(node_id, secret=secret, admin_token=admin_token)
    except PermissionDenied:
        if is_new:
            _remove(path)
        raise
    finally:
        await client.aclose()
    return {**reply, "identity": str(path)}


def _identity_of(path: Path) -> tuple[identities.Identity, bool]:
    try:
        return identities.load(path), False
    except FileNotFoundError:
        return identities.load_or_create(path), True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@click.group(cls=Group)
def recovery() -> None:
    """Prepare for the day on which this node's key is lost."""


@recovery.command()
@SECRET
@global_options
@asynchronous
async def enroll(settings: Settings, recovery_secret: str) -> None:
    """Leave the hash of a secret with the registry; without one, it is made and shown once."""
    secret = recovery_secret or secrets.token_urlsafe(32)
    data = await _call(settings, *calls.enroll_recovery(secret))
    if not recovery_secret:
        data["recovery_secret"] = secret

    def render(screen: Screen) -> None:
        screen.print(f"enrolled for node {data['node_id']}")
        if not recovery_secret:
            screen.print(f"keep this secret where the key is not: {secret}")

    settings.output.success(data, render)


@recovery.command()
@global_options
@asynchronous
async def withdraw(settings: Settings) -> None:
    """Take that back."""
    data = await _call(settings, *calls.enroll_recovery(""))
    settings.output.success(data, lambda screen: screen.print("withdrawn"))


@_commands.command("set-tags")
@click.argument("tags", nargs=-1, required=True)
@global_options
@asynchronous
async def set_tags(settings: Settings, tags: tuple[str, ...]) -> None:
    """Say what this node can be found by: 1 to 3 tags."""
    await _set_tags(settings, tags)


@_commands.command("clear-tags")
@global_options
@asynchronous
async def clear_tags(settings: Settings) -> None:
    """Take all tags away."""
    await _set_tags(settings, ())


async def _set_tags(settings: Settings, tags: tuple[str, ...]) -> None:
    reply = await _call(settings, *calls.set_tags(tags))
    shown = reply.get("tags") or []
    data = {"tags": shown} | ({"node_id": reply["node_id"]} if tags else {})
    text = " ".join(shown) or "no tags"
    settings.output.success(data, lambda screen: screen.print(text))


COMMANDS = (register, deregister, rotate_key, recovery, set_tags, clear_tags)
