"""Frames of the registry's protocol: ``u32 length`` in network byte order and one JSON object, both
ways.

Framing of docs/reference/protocol/registry.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes of a message.
MAX_MESSAGE: Final = 1 << 20
LENGTH_LEN: Final = 4

#: A JSON object, as it is decoded.
Message = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ProtocolError(Exception):
    """The bytes are no message; the connection cannot go on."""


def encode(message: Mapping[str, object] | msgspec.Struct, stamp: bytes = b"") -> bytes:
    """The frame of a message.

    Args:
        stamp: further members, from :func:`stamp_of`.
    """
    body = _encode(message)
    if stamp:
        body = body[:-1] + stamp + b"}"
    return len(body).to_bytes(LENGTH_LEN) + body


def stamp_of(members: Mapping[str, object]) -> bytes:
    """Members encoded once, for :func:`encode` to append to messages that are not empty."""
    return b"," + _encode(members)[1:-1] if members else b""


def decode(body: bytes) -> Message:
    """The message in a frame's body; ``null`` counts as empty.

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
    """Splits a byte stream into frame bodies; buffers at most one message and one read.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes what was read."""
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their message."""
        return len(self._buffer)

    def next_body(self) -> bytes | None:
        """The next complete body, if there is one.

        Raises:
            ProtocolError: a length field is zero or over the limit.
        """
        buffer = self._buffer
        if len(buffer) < LENGTH_LEN:
            return None
        length = int.from_bytes(buffer[:LENGTH_LEN])
        if not 0 < length <= self._limit:
            raise ProtocolError(f"message of {length} bytes")
        end = LENGTH_LEN + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[LENGTH_LEN:end])
        del buffer[:end]
        return body
