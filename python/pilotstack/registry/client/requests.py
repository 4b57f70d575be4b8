"""What typed requests of the registry's client stand on, whatever their topic."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Protocol

from pilotstack.errors import PermissionDenied, PilotError
from pilotstack.registry.protocol import signing, values

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message


#: Digits of a clock that a registry tells, and one.
_MAX_CLOCK = 16
#: Seconds that a repeated request may be ahead of time; less than registries bear.
_MAX_AHEAD = 60
#: Signatures that are remembered.
_MAX_SIGNED = 256


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
        #: Timed signatures that were made last. The registry takes each once, so the same request
        #: of the same second must differ.
        self._made: deque[str] = deque(maxlen=_MAX_SIGNED)
        #: Seconds by which the registry's clock is ahead of ours, as far as we know.
        self.clock_skew = 0

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
        return values.encode_base64(self.signer.public_key)

    def sign(self, challenge: str) -> str:
        """Our signature as messages have it.

        Raises:
            PermissionDenied: there is no identity.
        """
        if self.signer is None:
            raise PermissionDenied("this request needs an identity")
        return values.encode_base64(self.signer.sign(challenge.encode()))

    def asked_by_us(self, message: Message, about: object = None) -> Message:
        """A question that says who asks, so that it is told what is not for everybody. Registries
        that tell everybody everything do not look at that."""
        if self.signer is None or not self.node_id:
            return message
        suffix = "" if about is None else f":{about}"
        signature = self.sign(f"{message['type']}:{self.node_id}{suffix}")
        return message | {"requester_id": self.node_id, "signature": signature}

    def timed(self, message: Message, challenge: str) -> Message:
        """A request signed twice: as older registries of ours want it, and with the time, so that
        nobody can send it again."""
        at = int(time.time()) + self.clock_skew
        for ahead in range(_MAX_AHEAD):
            timed = message | {"signed_at": at + ahead}
            signature_at = self.sign(signing.challenge_at(challenge, timed, at + ahead))
            if signature_at not in self._made:
                break
        self._made.append(signature_at)
        return timed | {"signature": self.sign(challenge), "signature_at": signature_at}

    async def request_timed(self, message: Message, challenge: str) -> Message:
        """Sends a request of :meth:`timed`, once more if the registry's clock differs from ours."""
        try:
            return await self.request(self.timed(message, challenge))
        except PilotError as error:
            _, is_told, clock = error.message.partition(signing.NOT_NOW)
            if not (is_told and clock.isascii() and clock.isdecimal() and len(clock) < _MAX_CLOCK):
                raise
            self.clock_skew = int(clock) - int(time.time())
            return await self.request(self.timed(message, challenge))

    async def about_us(self, kind: str, **members: object) -> Message:
        """A request whose challenge names nobody but us."""
        signature = self.sign(f"{kind}:{self.node_id}")
        return await self.request(
            {"type": kind, "node_id": self.node_id, "signature": signature, **members}
        )
