"""Values in messages. Existing clients are loose with types, and existing servers forgiving: a
member of the wrong type counts as absent."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Mapping


KEY_LEN = 32
SIGNATURE_LEN = 64
#: Characters of a key in base64, with room for the line breaks that old servers let pass.
_MAX_KEY_TEXT: Final = 128


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


def read_key(text: str) -> bytes:
    """A public key as clients write it.

    Raises:
        ValueError: it is none.
    """
    if len(text) > _MAX_KEY_TEXT:
        raise ValueError("too long")
    return values.decode_base64(text.replace("\r", "").replace("\n", ""), values.KEY_LEN)
