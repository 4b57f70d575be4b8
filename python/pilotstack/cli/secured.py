"""``pilotctl connect --secure``: the channel over a stream, and keys of nodes from the registry."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from pilotstack import wellknown
from pilotstack.cli.records import NodeRecord, record_of
from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.services import secure

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver, Stream
    from pilotstack.services.secure import Credentials, SecureStream

PORT = wellknown.SECURE_PORT


async def wrap(
    settings: Settings, driver: Driver, stream: Stream, suite: str | None, identity: Path | None
) -> SecureStream:
    """The channel over a stream that was dialled, and two lines about it for people.

    Raises:
        SecureError: there is none, or the peer is somebody else.
    """
    _tell(settings, f"connected to {stream.remote_address}")
    chosen = secure.Suite(suite) if suite else None
    known = await _credentials(settings, driver, identity) if identity is not None else None
    channel = await secure.wrap_client(stream, suite=chosen, credentials=known)
    whom = f"; the peer is node {channel.peer_node}" if channel.peer_node is not None else ""
    _tell(settings, f"handshake complete (X25519 + AES-256-GCM){whom}")
    return channel


def _tell(settings: Settings, text: str) -> None:
    # On stderr: stdout has what the peer sends.
    if not settings.output.is_json:
        settings.output.progress.print(f"secure: {text}")


async def _credentials(settings: Settings, driver: Driver, identity: Path) -> Credentials:
    from pilotstack.daemon.identity import load

    try:
        seed = load(identity).seed
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"there is no identity {identity}", hint="name the daemon's file with --identity"
        ) from error

    async def key_of(node: int) -> bytes | None:
        client = settings.registry_client()
        try:
            record = record_of(NodeRecord, await client.lookup(node))
        except NotFound:
            return None
        finally:
            await client.aclose()
        return base64.b64decode(record.public_key) if record.public_key else None

    return secure.Credentials((await driver.info()).node_id, seed, key_of)
