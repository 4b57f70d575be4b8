"""Request envelopes: a short text with which a node signs what it asks of a service outside the
overlay, and which any other node can check."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pilotstack._core import ed25519_verify
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.daemon.supervisor import Daemon

_T = TypeVar("_T")

VERSION = "pilot-req-v1"
#: Seconds that an envelope's time may be off unless the caller says otherwise.
MAX_SKEW = 300
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


class _Sign(msgspec.Struct):
    audience: str
    body_hash: str = ""
    body_b64: str = ""
    nonce: str = ""


class _Verify(msgspec.Struct):
    envelope: str
    signature: str
    check_standing: bool = False
    max_skew_secs: int = MAX_SKEW


class EnvelopeVerbs:
    """Answers the verbs that sign and check envelopes."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def sign(self, payload: bytes) -> dict[str, Any]:
        """An envelope of this node, and its signature."""
        asked = _read(payload, _Sign, "sign_envelope")
        body_hash = asked.body_hash.lower()
        if not body_hash:
            body_hash = hashlib.sha256(_decode(asked.body_b64)).hexdigest()
        address = Address.parse(self._daemon.address)
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
        signature = self._daemon.identity.sign(text.encode())
        return {
            "type": "sign_envelope_ok",
            "envelope": text,
            "signature": base64.b64encode(signature).decode("ascii"),
            "address": str(address),
        }

    async def verify(self, payload: bytes) -> dict[str, Any]:
        """Whether an envelope is its node's, and of our time. What fails is an answer, no error.

        Raises:
            ConnectionFailed: the registry cannot be asked for the node's key.
        """
        asked = _read(payload, _Verify, "verify_envelope")
        try:
            envelope = Envelope.parse(asked.envelope)
            return await self._check(envelope, asked)
        except ValueError as error:
            return {"type": "verify_envelope_ok", "valid": False, "reason": f"reqsig: {error}"}

    async def _check(self, envelope: Envelope, asked: _Verify) -> dict[str, Any]:
        if abs(time.time() - envelope.time) > max(0, asked.max_skew_secs):
            raise ValueError("timestamp outside of the allowed skew")
        node = envelope.address.node
        daemon = self._daemon
        try:
            record = await daemon.records.profile(node)
        except NotFound as error:
            raise ValueError(f"node {node} is not registered") from error
        try:
            signature = base64.b64decode(asked.signature, validate=True)
        except ValueError:
            signature = b""
        if not ed25519_verify(record.public_key, asked.envelope.encode(), signature):
            raise ValueError("signature verification failed")
        answer = {
            "type": "verify_envelope_ok",
            "valid": True,
            "node_id": node,
            "address": str(envelope.address),
            "verified_via": "registry",
            "trusted": daemon.trust.trust.is_trusted(node),
        }
        if asked.check_standing:
            network = envelope.address.network
            answer["network_member"] = network == 0 or network in record.networks
            if record.last_seen:
                answer["last_seen_unix"] = record.last_seen
        return answer

    async def prefer_direct(self, payload: bytes) -> dict[str, Any]:
        """Asks the registry anew where a node is, and goes there. Nothing is relayed here."""
        if len(payload) != 4:
            raise InvalidArgument("prefer_direct: node_id is required")
        node = int.from_bytes(payload)
        daemon = self._daemon
        peers = daemon.core.snapshot()["peer_list"]
        daemon.records.forget(node)
        error = ""
        try:
            await daemon.find_peer(node)
        except (NotFound, ConnectionFailed, OSError, ValueError) as reason:
            error = str(reason)
        return {
            "node_id": node,
            "had_tunnel": any(peer["node_id"] == node and peer["encrypted"] for peer in peers),
            "pila_pushed": not error,
            "resolve_error": error,
            "was_relay_active": False,
            "was_relay_pinned": False,
        }


def _read(payload: bytes, form: type[_T], verb: str) -> _T:
    try:
        return msgspec.json.decode(payload, type=form)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"{verb}: invalid JSON: {error}") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidArgument(f"sign_envelope: body_b64: {error}") from error
