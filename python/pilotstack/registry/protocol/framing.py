"""Framing and reading of registry messages: ``u32 length`` and one JSON object, both ways.

Existing clients are loose with types, and existing servers forgiving: a member of the wrong type
counts as absent. The readers here say so in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE = 1 << 20
LENGTH_LEN = 4

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
