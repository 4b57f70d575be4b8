"""Key rotation that a crash at any point cannot break.

The new key is stored in a file beside the old one, with the node's id, before the registry is told.
Which key the registry has then decides: the new file replaces the old one, or is removed. As long
as that is unknown both are kept, and the next start finds out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """A new key that the registry may or may not have."""

    identity: Identity
    node_id: int


class KeyFiles:
    """The identity file and, during a rotation, the file of the next identity.

    Args:
        path: the identity file; ``None`` to keep keys in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: Pending | None = None

    @property
    def _next(self) -> Path | None:
        return self._path and self._path.with_name(f"{self._path.name}.next")

    def pending(self) -> Pending | None:
        """The next identity, if a rotation was begun and not completed.

        Raises:
            InvalidArgument: its file is malformed; it is unchanged.
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
                hint="another implementation wrote it; move it away",
            )
        return Pending(identity, node_id)

    def prepare(self, node_id: int) -> Identity:
        """Creates the next identity, or returns the one whose rotation was not completed.

        Raises:
            InvalidArgument: its file cannot be written.
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
        """Replaces the identity by the next one."""
        if self._path is not None and self._next is not None:
            self._next.replace(self._path)
            _files.sync_directory(self._path.parent)
        self._kept = None

    def discard(self) -> None:
        """Removes the next identity."""
        if self._next is not None:
            self._next.unlink(missing_ok=True)
        self._kept = None


class Rotation:
    """Rotates one node's key.

    Args:
        files: stores keys.
        registry: signs with the current identity, which this replaces.
    """

    def __init__(self, files: KeyFiles, registry: RegistryClient) -> None:
        self._files = files
        self._registry = registry

    async def rotate(self) -> tuple[Identity, Message]:
        """Creates a new key and registers it.

        Returns:
            The new identity, which is in use now, and the registry's reply.

        Raises:
            ConnectionFailed: it is unknown whether the registry has the new key; the next attempt
                or the next start finds out.
            PilotError: the registry refuses the key; the old one stays in use.
        """
        node_id = self._registry.node_id
        new = self._files.prepare(node_id)
        try:
            reply = await self._registry.rotate_key(new)
        except PilotError as error:
            # The registry may have the new key if only its reply was lost.
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
        """Finds out which key the registry has after an interrupted rotation.

        Args:
            current: the identity in the file.
            endpoint: our endpoint, in case that registering is the only way to find out.

        Returns:
            The identity to use.

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
                log.security("rotation_lost", node_id=pending.node_id)
                is_current = True
        if is_current:
            self._files.discard()
            return current
        log.security("rotation_settled", node_id=pending.node_id)
        self._adopt(pending.identity)
        return pending.identity

    async def _owns(self, node_id: int, endpoint: str) -> bool:
        """Whether the old key still has the old id. The registry does not show nodes that are
        offline, but a known key gets its old id when it registers. An unknown key gets a new id,
        which is given back."""
        registration = await self._registry.register(endpoint)
        if registration.node_id == node_id:
            return True
        await self._registry.deregister()
        return False


def _key_of(record: Message) -> bytes:
    try:
        return values.decode_base64(values.text(record, "public_key"), values.KEY_LEN)
    except ValueError:
        return b""
