"""The client's requests about a node's own key and attributes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from pilotstack.errors import PilotError
from pilotstack.registry.client.refusals import is_unexplained
from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.identity import SetTags
from pilotstack.registry.protocol.requests.keys import EnrollRecovery, RecoverIdentity, RotateKey

if TYPE_CHECKING:
    from pilotstack.registry.client.requests import Signer
    from pilotstack.registry.protocol.framing import Message


def commitment_of(secret: str) -> str:
    """The commitment to a recovery secret that the registry stores: its SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


class IdentityRequests(Requests):
    """Requests about a node's own key and attributes."""

    async def rotate_key(self, new: Signer) -> Message:
        """Replaces our key in the registry. Requests are signed with the old one until
        :attr:`signer` is replaced as well.

        The signature covers the new key. First-generation registries refuse that; they are asked
        again with a signature that does not.
        """
        request = RotateKey(
            node_id=self.node_id, new_public_key=values.encode_base64(new.public_key)
        )
        try:
            return await self.send(self.signed(request))
        except PilotError as error:
            if not is_unexplained(error):
                raise
        signature = self.sign(request.old_challenge())
        return await self.send(msgspec.structs.replace(request, signature=signature))

    async def enroll_recovery(self, commitment: str) -> Message:
        """Lets the holder of the secret behind ``commitment`` replace our key one day; see
        :func:`commitment_of`. An empty one takes that back."""
        request = EnrollRecovery(node_id=self.node_id, commitment=commitment)
        return await self.send(self.signed(request))

    async def recover_identity(
        self, node_id: int, *, secret: str = "", admin_token: str = ""
    ) -> Message:
        """Makes our key that of a node whose own was lost, by its recovery secret or by the
        registry's admin token."""
        request = RecoverIdentity(
            node_id=node_id,
            new_public_key=self.key_text(),
            recovery_secret=secret,
            admin_token=admin_token,
        )
        reply = await self.send(self.signed(request))
        self.node_id = node_id
        return reply

    async def set_tags(self, tags: list[str]) -> Message:
        """Sets what we can be found by."""
        return await self.send(self.signed(SetTags(node_id=self.node_id, tags=tuple(tags))))
