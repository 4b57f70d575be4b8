"""Commands about this node's place in the registry: registration, key, tags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from pilotstack import _commands, wellknown
from pilotstack.cli import direct
from pilotstack.cli.context import Group, global_options, registry_options, reported
from pilotstack.cli.records import KeyRecovered, record_of
from pilotstack.cli.text import members_of
from pilotstack.errors import NotRunning, PermissionDenied
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.daemon.identity import Identity
    from pilotstack.ipc.answers import KeyRotated
    from pilotstack.ipc.layout import Request

A = TypeVar("A", bound=msgspec.Struct)

SECRET = click.option(
    "--recovery-secret",
    default="",
    envvar="PILOT_RECOVERY_SECRET",
    help="The secret that was enrolled (PILOT_RECOVERY_SECRET).",
)


def _ask(settings: Settings, request: Request[A]) -> A:
    with settings.session() as session:
        return direct.ask(session, request)


@_commands.command()
@global_options
@reported
def register(settings: Settings) -> None:
    """Put this node on the network again after deregister."""
    answer = _ask(settings, r.Register())
    settings.output.success(answer, lambda screen: screen.print(f"this node is {answer.address}"))


@_commands.command()
@global_options
@reported
def deregister(settings: Settings) -> None:
    """Take this node off the network, and out of its networks; the daemon goes on."""
    answer = _ask(settings, r.Deregister())
    settings.output.success(answer, lambda screen: screen.print("deregistered"))


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
@reported
def rotate_key(
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
    result: KeyRotated | KeyRecovered
    if node_id is None or node_id == _own_id(settings):
        result = _ask(settings, r.RotateKey())
    elif recovery_secret or admin_token:
        path = identity or wellknown.home() / "identity.json"
        result = _recover(settings, node_id, path, recovery_secret, admin_token)
    else:
        raise PermissionDenied(
            f"the key of node {node_id} is not held here"
            + (f", and being {owner} proves nothing" if owner else ""),
            hint="give --recovery-secret (see: pilotctl recovery enroll) or --admin-token",
        )

    def render(screen: Screen) -> None:
        screen.print(f"node {result.node_id} has the key {result.public_key}")
        if isinstance(result, KeyRecovered):
            screen.print(f"start its daemon with --identity {result.identity}")

    settings.output.success(result, render)


def _own_id(settings: Settings) -> int:
    try:
        return _ask(settings, r.GetInfo()).node_id
    except NotRunning:
        return 0


def _recover(
    settings: Settings, node_id: int, path: Path, secret: str, admin_token: str
) -> KeyRecovered:
    import anyio

    # Stored before the registry is asked: after a crash nobody would have the new key otherwise.
    new, is_new = _identity_of(path)

    async def ask() -> KeyRecovered:
        client = settings.registry_client(new)
        try:
            reply = await client.recover_identity(node_id, secret=secret, admin_token=admin_token)
        finally:
            await client.aclose()
        return msgspec.structs.replace(record_of(KeyRecovered, reply), identity=str(path))

    try:
        return anyio.run(ask)
    except PermissionDenied:
        if is_new:
            path.unlink(missing_ok=True)
        raise


def _identity_of(path: Path) -> tuple[Identity, bool]:
    from pilotstack.daemon import identity as identities

    try:
        return identities.load(path), False
    except FileNotFoundError:
        return identities.load_or_create(path), True


@click.group(cls=Group)
def recovery() -> None:
    """Prepare for the day on which this node's key is lost."""


@recovery.command()
@SECRET
@global_options
@reported
def enroll(settings: Settings, recovery_secret: str) -> None:
    """Leave the hash of a secret with the registry; without one, it is made and shown once."""
    import hashlib
    import secrets

    secret = recovery_secret or secrets.token_urlsafe(32)
    commitment = hashlib.sha256(secret.encode()).hexdigest()
    answer = _ask(settings, r.EnrollRecovery(commitment))
    data = {**members_of(answer)} | ({} if recovery_secret else {"recovery_secret": secret})

    def render(screen: Screen) -> None:
        screen.print(f"enrolled for node {answer.node_id}")
        if not recovery_secret:
            screen.print(f"keep this secret where the key is not: {secret}")

    settings.output.success(data, render)


@recovery.command()
@global_options
@reported
def withdraw(settings: Settings) -> None:
    """Take that back."""
    answer = _ask(settings, r.EnrollRecovery(""))
    settings.output.success(answer, lambda screen: screen.print("withdrawn"))


@_commands.command("set-tags")
@click.argument("tags", nargs=-1, required=True)
@global_options
@reported
def set_tags(settings: Settings, tags: tuple[str, ...]) -> None:
    """Say what this node can be found by: 1 to 3 tags."""
    _set_tags(settings, tags)


@_commands.command("clear-tags")
@global_options
@reported
def clear_tags(settings: Settings) -> None:
    """Take all tags away."""
    _set_tags(settings, ())


def _set_tags(settings: Settings, tags: tuple[str, ...]) -> None:
    answer = _ask(settings, r.SetTags(tags))
    shown = list(answer.tags or ())
    data = {"tags": shown} | ({"node_id": answer.node_id} if tags else {})
    text = " ".join(shown) or "no tags"
    settings.output.success(data, lambda screen: screen.print(text))


COMMANDS = (register, deregister, rotate_key, recovery, set_tags, clear_tags)
