"""Requests about a node's own key (registry sheet 3.3 and 3.10)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pilotstack.errors import PilotError
from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from pilotstack.registry.client.requests import Signer
    from pilotstack.registry.protocol.framing import Message

#: How the first generation of registries says no to everything.
_UNEXPLAINED = "request failed"


def commitment_of(secret: str) -> str:
    """What the registry is told of a recovery secret: its SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class IdentityRequests(Requests):
    """The requests."""

    async def rotate_key(self, new: Signer) -> Message:
        """Replaces our key in the registry; we go on to sign with the old one until
        :attr:`signer` is replaced, too.

        The signature covers the new key. A registry of the first generation, which wants one that
        does not, is asked again in its way.
        """
        new_text = values.encode_base64(new.public_key)
        message: Message = {
            "type": "rotate_key",
            "node_id": self.node_id,
            "new_public_key": new_text,
            "signature": self.sign(f"rotate:{self.node_id}:{new_text}"),
        }
        try:
            return await self.request(message)
        except PilotError as error:
            if not error.message.endswith(_UNEXPLAINED):
                raise
        signature = self.sign(f"rotate:{self.node_id}")
        return await self.request(message | {"signature": signature})

    async def enroll_recovery(self, commitment: str) -> Message:
        """Lets whoever knows the secret behind ``commitment`` replace our key one day; see
        :func:`commitment_of`. An empty one takes that back."""
        return await self.request(
            {
                "type": "enroll_recovery",
                "node_id": self.node_id,
                "commitment": commitment,
                "signature": self.sign(f"enroll_recovery:{self.node_id}:{commitment}"),
            }
        )

    async def recover_identity(
        self, node_id: int, *, secret: str = "", admin_token: str = ""
    ) -> Message:
        """Makes our key that of a node whose own was lost, by its recovery secret or by the
        operator's leave."""
        key = self.key_text()
        message: Message = {
            "type": "recover_identity",
            "node_id": node_id,
            "new_public_key": key,
            "signature": self.sign(f"recover_identity:{node_id}:{key}"),
        }
        if secret:
            message["recovery_secret"] = secret
        if admin_token:
            message["admin_token"] = admin_token
        reply = await self.request(message)
        self.node_id = node_id
        return reply

    async def set_tags(self, tags: list[str]) -> Message:
        """Says what we can be found by."""
        return await self.about_us("set_tags", tags=tags)
