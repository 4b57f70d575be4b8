"""Members of messages, and the encodings of keys, signatures and times.

Existing clients are loose with types, and existing servers forgiving: a member of the wrong type
counts as absent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_LEN: Final = 32
SIGNATURE_LEN: Final = 64
#: Characters of a key in base64, with room for the line breaks that old servers accept.
_MAX_KEY_TEXT: Final = 128


def text(message: Mapping[str, object], name: str) -> str:
    """A string member; anything else is empty."""
    value = message.get(name)
    return value if isinstance(value, str) else ""


def flag(message: Mapping[str, object], name: str) -> bool:
    """A boolean member; anything else is false."""
    return message.get(name) is True


def number(message: Mapping[str, object], name: str, bits: int = 32) -> int:
    """A number member without its fraction; anything else, or out of range, is 0."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 1 << bits else 0


def encode_base64(data: bytes) -> str:
    """Standard base64 of bytes."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(value: str, length: int) -> bytes:
    """The bytes of standard base64.

    Raises:
        ValueError: wrong alphabet, padding or length.
    """
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes instead of {length}")
    return data


def read_key(text: str) -> bytes:
    """A public key as clients write it.

    Raises:
        ValueError: it is none.
    """
    if len(text) > _MAX_KEY_TEXT:
        raise ValueError("too long")
    return decode_base64(text.replace("\r", "").replace("\n", ""), KEY_LEN)


def digest(data: bytes) -> bytes:
    """A digest of 16 bytes (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=16).digest()


def rfc3339(seconds: float) -> str:
    """A time as written in snapshots and some replies: UTC, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def from_rfc3339(text: str) -> float:
    """Unix seconds of a time with up to nine digits after the second.

    Raises:
        ValueError: it is no such time.
    """
    return datetime.fromisoformat(text).timestamp()
