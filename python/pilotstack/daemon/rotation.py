"""Replacing the node's key so that a crash at any point leaves an identity that works.

The new key stands in a file beside the old one's, with the node's id, before the registry hears of
it. Whichever key the registry then has is the right one: the new file replaces the old one, or is
removed. Until that is known both stay, and the next start finds out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pilotstack import _events, _files
from pilotstack.daemon import identity as identities
from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound, PilotError
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.client import RegistryClient
    from pilotstack.registry.protocol.framing import Message

log = _events.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pending:
    """A new key whose rotation may or may not have happened."""

    identity: Identity
    node_id: int


class KeyFiles:
    """The identity's file and, while a rotation is under way, that of the next identity.

    Args:
        path: the identity's file; ``None`` for an identity that is kept in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: Pending | None = None

    @property
    def _next(self) -> Path | None:
        return self._path and self._path.with_name(f"{self._path.name}.next")

    def pending(self) -> Pending | None:
        """The next identity, if a rotation was begun and not settled.

        Raises:
            InvalidArgument: its file makes no sense; it is left as it is.
        """
        path = self._next
        if path is None:
            return self._kept
        try:
            text = identities.read(path)
        except FileNotFoundError:
            return None
        identity = identities.decode(text, path)
        node_id = values.number(msgspec.json.decode(text), "node_id")
        if not node_id:
            raise InvalidArgument(
                f"{path} does not say whose next key it holds",
                hint="it was not written by a daemon of this make; move it away",
            )
        return Pending(identity, node_id)

    def prepare(self, node_id: int) -> Identity:
        """Makes the next identity, or gives the one whose rotation was not settled.

        Raises:
            InvalidArgument: it cannot be written.
        """
        pending = self.pending()
        if pending is not None and pending.node_id == node_id:
            return pending.identity
        self.discard()
        pending = Pending(Identity.generate(), node_id)
        if self._next is not None:
            text = identities.encode(pending.identity, node_id=node_id)
            identities.write_new(self._next, text)
        self._kept = pending
        return pending.identity

    def adopt(self) -> None:
        """The next identity is the identity from now on."""
        if self._path is not None and self._next is not None:
            self._next.replace(self._path)
            _files.sync_directory(self._path.parent)
        self._kept = None

    def discard(self) -> None:
        """The next identity will not be used."""
        if self._next is not None:
            self._next.unlink(missing_ok=True)
        self._kept = None


class Rotation:
    """Rotates one node's key.

    Args:
        files: where keys are kept.
        registry: signs with the identity in use, which this replaces.
    """

    def __init__(self, files: KeyFiles, registry: RegistryClient) -> None:
        self._files = files
        self._registry = registry

    async def rotate(self) -> tuple[Identity, Message]:
        """Makes a new key and has the registry take it.

        Returns:
            The new identity, which is in use now, and the registry's reply.

        Raises:
            ConnectionFailed: whether the registry took the key is not known; the next attempt or
                the next start will find out.
            PilotError: the registry refuses, and the old key stays.
        """
        node_id = self._registry.node_id
        new = self._files.prepare(node_id)
        try:
            reply = await self._registry.rotate_key(new)
        except PilotError as error:
            # The registry may have done it and only its reply was lost.
            reply = await self._after(error, new)
        self._adopt(new)
        return new, reply

    async def _after(self, error: PilotError, new: Identity) -> Message:
        try:
            found = await self._registry.lookup(self._registry.node_id)
        except PilotError:
            raise ConnectionFailed(
                f"whether the key was replaced is not known: {error}",
                hint="both keys are kept; try again when the registry can be reached",
            ) from error
        if _key_of(found) != new.public_key:
            self._files.discard()
            raise error
        return {name: found[name] for name in ("node_id", "address", "public_key")} | {
            "type": "rotate_key_ok"
        }

    def _adopt(self, new: Identity) -> None:
        self._files.adopt()
        self._registry.signer = new

    async def settle(self, current: Identity, endpoint: str) -> Identity:
        """Finds out which key is right after a rotation that was interrupted.

        Args:
            current: the identity of the file.
            endpoint: our endpoint, if registering is the only way to find out.

        Returns:
            The identity to go on with.

        Raises:
            ConnectionFailed: the registry cannot be asked.
        """
        pending = self._files.pending()
        if pending is None:
            return current
        try:
            registered = _key_of(await self._registry.lookup(pending.node_id))
        except NotFound:
            is_current = await self._owns(pending.node_id, endpoint)
        else:
            is_current = registered == current.public_key
            if not is_current and registered != pending.identity.public_key:
                log.warning("rotation_lost", node_id=pending.node_id)
                is_current = True
        if is_current:
            self._files.discard()
            return current
        log.info("rotation_settled", node_id=pending.node_id)
        self._adopt(pending.identity)
        return pending.identity

    async def _owns(self, node_id: int, endpoint: str) -> bool:
        """Whether the old key still gets the old id. The registry does not show a node that is
        offline, but knows its key; a key that it does not know gets an id that nobody keeps."""
        registration = await self._registry.register(endpoint)
        if registration.node_id == node_id:
            return True
        await self._registry.deregister()
        return False


def _key_of(record: dict[str, Any]) -> bytes:
    try:
        return values.decode_base64(values.text(record, "public_key"), values.KEY_LEN)
    except ValueError:
        return b""
