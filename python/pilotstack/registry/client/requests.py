"""What the requests of the registry's client have in common: signing, sending, reading replies."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from pilotstack.errors import PermissionDenied, PilotError
from pilotstack.registry.protocol import lenient, values
from pilotstack.registry.protocol.requests.base import (
    NOT_NOW,
    Asked,
    R,
    Reply,
    Request,
    Timed,
    digest_of,
    message_of,
    reply_of,
)

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message

#: Digits of a clock that a registry tells, and one.
_MAX_CLOCK = 16
#: Seconds by which the time of a repeated request may be ahead; registries accept more.
_MAX_AHEAD = 60
#: Signatures that are remembered.
_MAX_SIGNED = 256

Q = TypeVar("Q", bound=Request[Reply])
A = TypeVar("A", bound=Asked[Reply])
T = TypeVar("T", bound=Timed[Reply])


class Signer(Protocol):
    """An Ed25519 identity."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""


class Requests(ABC):
    """Requests of one identity. Every method raises the errors of :meth:`request`.

    Args:
        signer: the identity that signs; without one, only lookups work.
    """

    def __init__(self, signer: Signer | None) -> None:
        #: The identity that signs; it is replaced when the node's key is.
        self.signer = signer
        #: Our id, once registered.
        self.node_id = 0
        #: The latest signatures with a time. The registry accepts each once, so two equal requests
        #: in one second must differ.
        self._made: deque[str] = deque(maxlen=_MAX_SIGNED)
        #: Seconds by which the registry's clock is ahead of ours, as far as we know.
        self.clock_skew = 0

    @abstractmethod
    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        """Sends a message and returns the reply.

        Args:
            wait: seconds for which the registry is asked to hold its reply back.

        Raises:
            ConnectionFailed: no registry can be reached.
            PilotError: the registry refuses.
        """

    async def send(self, request: Request[Reply], *, wait: float = 0.0) -> Message:
        """Sends a request and returns the members of the reply."""
        return await self.request(message_of(request), wait=wait)

    async def ask(self, request: Request[R], *, wait: float = 0.0) -> R:
        """Sends a request and returns its reply."""
        reply = await self.send(request, wait=wait)
        return lenient.convert(reply, reply_of(type(request)))

    def key_text(self) -> str:
        """Our public key as sent in messages.

        Raises:
            PermissionDenied: there is no identity.
        """
        if self.signer is None:
            raise PermissionDenied("this request needs an identity")
        return values.encode_base64(self.signer.public_key)

    def sign(self, challenge: str) -> str:
        """Our signature as sent in messages.

        Raises:
            PermissionDenied: there is no identity.
        """
        if self.signer is None:
            raise PermissionDenied("this request needs an identity")
        return values.encode_base64(self.signer.sign(challenge.encode()))

    def signed(self, request: Q) -> Q:
        """A request with our signature.

        Raises:
            PermissionDenied: there is no identity.
        """
        return msgspec.structs.replace(request, signature=self.sign(request.challenge()))

    def asked_by_us(self, question: A) -> A:
        """A question that proves who asks, so that the answer may hold what is not for everybody.
        Without an identity it stays anonymous."""
        if self.signer is None or not self.node_id:
            return question
        return self.signed(msgspec.structs.replace(question, requester_id=self.node_id))

    def timed(self, request: T) -> T:
        """A request with two signatures: a plain one, for older registries, and one with the time,
        which nobody can send again."""
        at = int(time.time()) + self.clock_skew
        for ahead in range(_MAX_AHEAD):
            request = msgspec.structs.replace(request, signed_at=at + ahead)
            request = msgspec.structs.replace(request, digest=digest_of(message_of(request)))
            signature_at = self.sign(request.challenge_at())
            if signature_at not in self._made:
                break
        self._made.append(signature_at)
        return self.signed(msgspec.structs.replace(request, signature_at=signature_at))

    async def send_timed(self, request: Timed[Reply]) -> Message:
        """Sends a request of :meth:`timed`, again if the registry's clock differs from ours."""
        try:
            return await self.send(self.timed(request))
        except PilotError as error:
            _, is_told, clock = error.message.partition(NOT_NOW)
            if not (is_told and clock.isascii() and clock.isdecimal() and len(clock) < _MAX_CLOCK):
                raise
            self.clock_skew = int(clock) - int(time.time())
            return await self.send(self.timed(request))
