"""Framing and reading of registry messages: ``u32 length`` and one JSON object, both ways.

Existing clients are loose with types, and existing servers forgiving: a member of the wrong type
counts as absent. The readers here say so in one place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE = 1 << 20
LENGTH_LEN = 4
KEY_LEN = 32
SIGNATURE_LEN = 64

Message = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ProtocolError(Exception):
    """The octets are no message; the connection cannot go on."""


def encode(message: Mapping[str, Any]) -> bytes:
    """The frame of a message."""
    body = _encode(message)
    return len(body).to_bytes(LENGTH_LEN) + body


def decode(body: bytes) -> Message:
    """The message of a frame's body; ``null`` counts as empty.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        message = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(str(error)) from error
    if message is None:
        return {}
    if not isinstance(message, dict):
        raise ProtocolError("not an object")
    return message


class Framer:
    """Collects octets and gives frame bodies; never holds more than one message and a read."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._octets = bytearray()

    def feed(self, octets: bytes) -> None:
        """Takes what was read."""
        self._octets += octets

    @property
    def pending(self) -> int:
        """Octets that wait for the rest of their message."""
        return len(self._octets)

    def next_body(self) -> bytes | None:
        """The next complete body.

        Raises:
            ProtocolError: a length field is zero or over the limit.
        """
        octets = self._octets
        if len(octets) < LENGTH_LEN:
            return None
        length = int.from_bytes(octets[:LENGTH_LEN])
        if not 0 < length <= self._limit:
            raise ProtocolError(f"message of {length} octets")
        end = LENGTH_LEN + length
        if len(octets) < end:
            return None
        body = bytes(octets[LENGTH_LEN:end])
        del octets[:end]
        return body


def text(message: Mapping[str, Any], name: str) -> str:
    """A string member; anything else is absent."""
    value = message.get(name)
    return value if isinstance(value, str) else ""


def flag(message: Mapping[str, Any], name: str) -> bool:
    """A boolean member; anything else is false."""
    return message.get(name) is True


def number(message: Mapping[str, Any], name: str, bits: int = 32) -> int:
    """A number member, its fraction cut off; anything else, or out of range, is 0."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 1 << bits else 0


def texts(message: Mapping[str, Any], name: str, limit: int = 16) -> list[str]:
    """The strings of a list member."""
    value = message.get(name)
    return (
        [item for item in value if isinstance(item, str)][:limit] if isinstance(value, list) else []
    )


def decode_base64(value: str, length: int) -> bytes:
    """Octets of standard base64.

    Raises:
        ValueError: wrong alphabet, padding or length.
    """
    try:
        octets = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(octets) != length:
        raise ValueError(f"{len(octets)} octets instead of {length}")
    return octets


def digest(octets: bytes) -> bytes:
    """16 octets that stand for more."""
    return hashlib.blake2b(octets, digest_size=16).digest()


def rfc3339(seconds: float) -> str:
    """A time as snapshots and some replies have it: UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def from_rfc3339(text: str) -> float:
    """Unix seconds of a time with up to nine digits after the second.

    Raises:
        ValueError: it is no such time.
    """
    return datetime.fromisoformat(text).timestamp()


def encode_base64(octets: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(octets).decode("ascii")
