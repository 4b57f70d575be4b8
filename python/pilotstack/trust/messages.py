"""The handshake message of port 444: one JSON object for each stream, without an answer
(``docs/reference/protocol/services.md#handshake``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from pilotstack._core import ed25519_verify
from pilotstack.registry.protocol import framing as json
from pilotstack.registry.protocol import values

#: Octets that a receiver reads of one message.
MAX_MESSAGE = 1 << 16
#: Octets that pass in one segment to any peer; old ones read one segment only.
MAX_SEGMENT = 1152
#: Octets of a justification.
MAX_JUSTIFICATION = 1024
#: Octets of a reason.
MAX_REASON = 256
_TIME_BITS = 63


class Kind(StrEnum):
    """What a message says."""

    REQUEST = "handshake_request"
    ACCEPT = "handshake_accept"
    REJECT = "handshake_reject"
    REVOKE = "handshake_revoke"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``timestamp`` is in Unix seconds, ``text`` the justification of a request or the
    reason of a refusal; key and signature are empty if the sender gave none."""

    kind: Kind
    node_id: int
    public_key: bytes
    signature: bytes
    timestamp: int
    text: str = ""


def challenge(sender: int, receiver: int) -> bytes:
    """What all messages from one node to another sign."""
    return f"handshake:{sender}:{receiver}".encode("ascii")


def is_signed(message: Message, receiver: int) -> bool:
    """Whether the key that the message names signed it for ``receiver``."""
    return ed25519_verify(
        message.public_key, challenge(message.node_id, receiver), message.signature
    )


def encode(message: Message) -> bytes:
    """The octets of a message, its members in the order of existing senders."""
    is_request = message.kind is Kind.REQUEST
    return msgspec.json.encode(
        {
            "type": message.kind.value,
            "node_id": message.node_id,
            "public_key": values.encode_base64(message.public_key),
            "justification": message.text if is_request else "",
            "signature": values.encode_base64(message.signature),
            "reason": "" if is_request else message.text,
            "timestamp": message.timestamp,
        }
    )


def decode(octets: bytes) -> Message:
    """The message in octets from a peer.

    Raises:
        ValueError: they are none.
    """
    try:
        row = json.decode(octets)
    except json.ProtocolError as error:
        raise ValueError(str(error)) from error
    kind = Kind(values.text(row, "type"))
    text = values.text(row, "justification" if kind is Kind.REQUEST else "reason")
    return Message(
        kind,
        values.number(row, "node_id"),
        _octets(values.text(row, "public_key"), values.KEY_LEN),
        _octets(values.text(row, "signature"), values.SIGNATURE_LEN),
        values.number(row, "timestamp", _TIME_BITS),
        text,
    )


def _octets(text: str, length: int) -> bytes:
    return values.decode_base64(text, length) if text else b""


def printable(text: str) -> str:
    """What may be shown to an operator: no controls, no escapes, no invisible characters."""
    return "".join(char for char in text if char.isprintable())


def cut(text: str, octets: int) -> str:
    """The printable beginning of a text that fits this many octets."""
    return printable(text).encode()[:octets].decode(errors="ignore")
