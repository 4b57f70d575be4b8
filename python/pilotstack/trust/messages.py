"""The handshake message of port 444: one JSON object per stream, without an answer
(``docs/reference/protocol/services.md#handshake``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from pilotstack._core import ed25519_verify
from pilotstack.registry.protocol import framing as json
from pilotstack.registry.protocol import values

#: Largest message that is read, bytes.
MAX_MESSAGE = 1 << 16
#: Largest message that fits one segment to any peer, bytes; legacy peers read one segment only.
MAX_SEGMENT = 1152
#: Largest justification, bytes.
MAX_JUSTIFICATION = 1024
#: Largest reason, bytes.
MAX_REASON = 256
_TIME_BITS = 63


class Kind(StrEnum):
    """Type of a message."""

    REQUEST = "handshake_request"
    ACCEPT = "handshake_accept"
    REJECT = "handshake_reject"
    REVOKE = "handshake_revoke"


@dataclass(frozen=True, slots=True)
class TrustMessage:
    """One message. ``timestamp`` is in Unix seconds, ``text`` the justification of a request or the
    reason of a refusal; key and signature are empty if the sender gave none."""

    kind: Kind
    node_id: int
    public_key: bytes
    signature: bytes
    timestamp: int
    text: str = ""


def challenge(sender: int, receiver: int) -> bytes:
    """The text signed by every message from ``sender`` to ``receiver``."""
    return f"handshake:{sender}:{receiver}".encode("ascii")


def is_signed(message: TrustMessage, receiver: int) -> bool:
    """Whether the key that the message names signed it for ``receiver``."""
    return ed25519_verify(
        message.public_key, challenge(message.node_id, receiver), message.signature
    )


def encode(message: TrustMessage) -> bytes:
    """Encodes a message, with its members in the order of existing senders."""
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


def decode(data: bytes) -> TrustMessage:
    """Decodes a message from a peer.

    Raises:
        ValueError: it is not a valid message.
    """
    try:
        row = json.decode(data)
    except json.ProtocolError as error:
        raise ValueError(str(error)) from error
    kind = Kind(values.text(row, "type"))
    text = values.text(row, "justification" if kind is Kind.REQUEST else "reason")
    return TrustMessage(
        kind,
        values.number(row, "node_id"),
        _decode_base64(values.text(row, "public_key"), values.KEY_LEN),
        _decode_base64(values.text(row, "signature"), values.SIGNATURE_LEN),
        values.number(row, "timestamp", _TIME_BITS),
        text,
    )


def _decode_base64(text: str, length: int) -> bytes:
    return values.decode_base64(text, length) if text else b""


def printable(text: str) -> str:
    """Removes control, escape and invisible characters, for display to an operator."""
    return "".join(char for char in text if char.isprintable())


def cut(text: str, size: int) -> str:
    """The printable start of a text, cut to ``size`` bytes."""
    return printable(text).encode()[:size].decode(errors="ignore")
