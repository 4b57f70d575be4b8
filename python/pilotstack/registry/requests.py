"""What typed requests of the registry's client stand on, whatever their topic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from pilotstack.errors import PermissionDenied
from pilotstack.registry import messages

if TYPE_CHECKING:
    from pilotstack.registry.messages import Message


class Signer(Protocol):
    """An Ed25519 identity."""

    @property
    def public_key(self) -> bytes:
        """32 octets."""

    def sign(self, message: bytes) -> bytes:
        """64 octets."""


class Requests(ABC):
    """Requests of one identity. Every method raises the errors of :meth:`request`.

    Args:
        signer: the identity that signs; only lookups work without one.
    """

    def __init__(self, signer: Signer | None) -> None:
        #: The identity that signs; it may be replaced when the node's key is.
        self.signer = signer
        #: Our id, once registered.
        self.node_id = 0

    @abstractmethod
    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        """Sends one request and returns its reply.

        Args:
            wait: seconds for which the request asks the registry to hold its reply.

        Raises:
            ConnectionFailed: no registry can be reached.
            PilotError: the registry refuses.
        """

    def key_text(self) -> str:
        """Our public key as messages have it.

        Raises:
            PermissionDenied: there is no identity.
        """
        if self.signer is None:
            raise PermissionDenied("this request needs an identity")
        return messages.encode_base64(self.signer.public_key)

    def sign(self, challenge: str) -> str:
        """Our signature as messages have it.

        Raises:
            PermissionDenied: there is no identity.
        """
        if self.signer is None:
            raise PermissionDenied("this request needs an identity")
        return messages.encode_base64(self.signer.sign(challenge.encode()))

    async def about_us(self, kind: str, **members: object) -> Message:
        """A request whose challenge names nobody but us."""
        signature = self.sign(f"{kind}:{self.node_id}")
        return await self.request(
            {"type": kind, "node_id": self.node_id, "signature": signature, **members}
        )
