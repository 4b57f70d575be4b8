"""Requests that carry a node's signature, for services that are reached in other ways than the
overlay: sign one, verify one."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import UNSET

from pilotstack import _commands
from pilotstack.cli.context import global_options, reported
from pilotstack.cli.outcome import Incomplete
from pilotstack.cli.text import members_of
from pilotstack.errors import InvalidArgument, PermissionDenied
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings

_STDIN: Final = "-"
#: Bytes of a body that is sent to the daemon; larger ones are hashed here.
_MAX_BODY: Final = 1 << 16


@_commands.command("sign-request")
@click.option("--audience", required=True, help="Who shall accept it.")
@click.option("--body", help='The body of the request; "-" reads stdin.')
@click.option(
    "--body-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File that holds the body.",
)
@click.option("--body-hash", default="", help="SHA-256 of the body, 64 hex digits, instead of it.")
@click.option("--nonce", default="", help="16 hex digits; made unless given.")
@global_options
@reported
def sign_request(
    settings: Settings,
    audience: str,
    body: str | None,
    body_file: Path | None,
    body_hash: str,
    nonce: str,
) -> None:
    """Sign a request with this node's key, for an audience.

    The envelope says who asks, when, what (by its hash) and whom, and is valid for five minutes.
    """
    content = _content(body, body_file)
    if (content is not None) == bool(body_hash):
        raise InvalidArgument("a body is missing", hint="give --body, --body-file or --body-hash")
    in_base64 = ""
    if content is not None and len(content) <= _MAX_BODY:
        in_base64 = base64.b64encode(content).decode("ascii")
    elif content is not None:
        import hashlib

        body_hash = hashlib.sha256(content).hexdigest()
    with settings.session() as session:
        signed = session.ask(r.SignEnvelope(audience, body_hash, in_base64, nonce))

    def render(screen: Screen) -> None:
        screen.print(f"envelope:  {signed.envelope}")
        screen.print(f"signature: {signed.signature}")

    settings.output.success(signed, render)


def _content(body: str | None, file: Path | None) -> bytes | None:
    if body is not None and file is not None:
        raise InvalidArgument("--body and --body-file exclude each other")
    if file is not None:
        return file.read_bytes()
    if body == _STDIN:
        return sys.stdin.buffer.read()
    return body.encode() if body is not None else None


@_commands.command("verify-request")
@click.option("--envelope", required=True, help="As sign-request printed it.")
@click.option("--signature", required=True, help="As sign-request printed it.")
@click.option("--standing", is_flag=True, help="Also ask the registry about the node.")
@click.option(
    "--max-skew",
    type=click.IntRange(1, 86_400),
    default=r.MAX_SKEW,
    show_default=True,
    help="Seconds that its time may differ from ours.",
)
@global_options
@reported
def verify_request(
    settings: Settings, envelope: str, signature: str, standing: bool, max_skew: int
) -> None:
    """Check who signed a request, and when. One that is not authentic is a failure.

    Whether the body is the one of the hash, and whether this is the audience, is for the caller to
    compare; so is whether the same envelope came before.
    """
    with settings.session() as session:
        found = session.ask(r.VerifyEnvelope(envelope, signature, standing, max_skew))
    if not found.valid:
        failure = PermissionDenied(
            f"the envelope is not authentic: {found.reason or 'no reason given'}",
            hint="do not act upon this request",
        )
        raise Incomplete(failure, members_of(found))

    def render(screen: Screen) -> None:
        trusted = (
            "" if found.trusted is UNSET else ", trusted" if found.trusted else ", not trusted"
        )
        screen.print(f"signed by node {found.node_id} ({found.address}){trusted}")

    settings.output.success(found, render)


COMMANDS = (sign_request, verify_request)
