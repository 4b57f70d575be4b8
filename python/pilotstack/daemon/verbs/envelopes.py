"""Request envelopes: a short text with which a node signs what it asks of a service outside the
overlay, and which any other node can check."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET

from pilotstack._core import ed25519_verify
from pilotstack.daemon.state import BACKBONE
from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.state import NodeState
    from pilotstack.daemon.verbs.table import Table
    from pilotstack.registry.client import Record

VERSION = "pilot-req-v1"
#: Characters of an audience.
MAX_AUDIENCE = 256
_SHAPE = re.compile(
    rf"{VERSION}\|([0-9a-f]{{12}})\|([0-9]{{1,12}})\|([0-9a-f]{{16}})\|([0-9a-f]{{64}})\|"
    rf"([^|\x00-\x1f\x7f]{{1,{MAX_AUDIENCE}}})"
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who asks whom for what, and when."""

    address: Address
    #: Unix seconds.
    time: int
    #: 16 hexadecimal digits.
    nonce: str
    #: SHA-256 of the request's body in hexadecimal digits.
    body_hash: str
    audience: str

    def __str__(self) -> str:
        fields = (self.address.pack().hex(), self.time, self.nonce, self.body_hash, self.audience)
        return "|".join((VERSION, *map(str, fields)))

    @classmethod
    def parse(cls, text: str) -> Envelope:
        """Reads the text of an envelope.

        Raises:
            ValueError: it is none.
        """
        found = _SHAPE.fullmatch(text)
        if found is None:
            raise ValueError("malformed envelope")
        address, seconds, nonce, body_hash, audience = found.groups()
        return cls(Address.unpack(bytes.fromhex(address)), int(seconds), nonce, body_hash, audience)


class Judge(Protocol):
    """Knows whom this node trusts."""

    def is_trusted(self, node: int) -> bool:
        """Whether there is trust."""


class EnvelopeVerbs:
    """Answers drivers about envelopes.

    Args:
        state: of this node, whose key signs.
        profile: what the registry says about a node.
        judge: knows whom this node trusts.
    """

    def __init__(
        self,
        state: NodeState,
        profile: Callable[[int], Awaitable[Record]],
        judge: Judge,
    ) -> None:
        self._state = state
        self._profile = profile
        self._judge = judge

    def add_to(self, table: Table) -> None:
        """Lets these verbs answer."""
        table.add(r.SignEnvelope, self.sign)
        table.add(r.VerifyEnvelope, self.verify)

    async def sign(self, asked: r.SignEnvelope) -> a.EnvelopeSigned:
        """An envelope of this node, and its signature."""
        body_hash = asked.body_hash.lower()
        if not body_hash:
            body_hash = hashlib.sha256(_decode(asked.body_b64)).hexdigest()
        address = self._state.address
        nonce = asked.nonce.lower() or os.urandom(8).hex()
        text = str(Envelope(address, int(time.time()), nonce, body_hash, asked.audience))
        try:
            Envelope.parse(text)
        except ValueError as error:
            raise InvalidArgument(
                "sign_envelope: audience, body_hash or nonce has another form",
                hint=f"an audience has 1 to {MAX_AUDIENCE} characters and no '|'; "
                "a body_hash 64, a nonce 16 hexadecimal digits",
            ) from error
        signature = self._state.identity.sign(text.encode())
        return a.EnvelopeSigned(
            envelope=text,
            signature=base64.b64encode(signature).decode("ascii"),
            address=address,
        )

    async def verify(self, asked: r.VerifyEnvelope) -> a.EnvelopeVerified:
        """Whether an envelope is its node's, and of our time. What fails is an answer, no error.

        Raises:
            ConnectionFailed: the registry cannot be asked for the node's key.
        """
        try:
            envelope = Envelope.parse(asked.envelope)
            return await self._check(envelope, asked)
        except ValueError as error:
            return a.EnvelopeVerified(valid=False, reason=f"reqsig: {error}")

    async def _check(self, envelope: Envelope, asked: r.VerifyEnvelope) -> a.EnvelopeVerified:
        if abs(time.time() - envelope.time) > max(0, asked.max_skew_secs):
            raise ValueError("timestamp outside of the allowed skew")
        node = envelope.address.node
        try:
            record = await self._profile(node)
        except NotFound as error:
            raise ValueError(f"node {node} is not registered") from error
        try:
            signature = base64.b64decode(asked.signature, validate=True)
        except ValueError:
            signature = b""
        if not ed25519_verify(record.public_key, asked.envelope.encode(), signature):
            raise ValueError("signature verification failed")
        network = envelope.address.network
        is_member = network == BACKBONE or network in record.networks
        return a.EnvelopeVerified(
            valid=True,
            node_id=node,
            address=envelope.address,
            verified_via="registry",
            trusted=self._judge.is_trusted(node),
            network_member=is_member if asked.check_standing else UNSET,
            last_seen_unix=record.last_seen if asked.check_standing else 0,
        )


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidArgument(f"sign_envelope: body_b64: {error}") from error
