"""Payloads of BULK frames: how our own nodes send files of any size.

The hash follows the data, so a file is read once; blocks are large; folders travel as one. Nodes
that do not know the type answer the first frame as any unknown one, by which they are recognized.
A pure codec.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from pilotstack.services.data_exchange.frames import FrameError, FrameType, header

#: Largest payload other than of data, bytes.
MAX_CONTROL: Final = 1 << 14
#: Data in one frame at most, and as we send it.
MAX_BLOCK: Final = 1 << 24
BLOCK: Final = 1 << 20
#: Bytes of keys, and of a path.
KEY_LEN: Final = 16
MAX_PATH: Final = 4096
_HASH_LEN: Final = 32
_MAX_SIZE: Final = (1 << 63) - 1


class Kind(IntEnum):
    """What a frame is for."""

    OFFER = 1
    ACCEPT = 2
    DATA = 3
    END = 4
    RESULT = 5
    ABORT = 6
    CLOSE = 7


class Offer(msgspec.Struct, frozen=True):
    """A sender announces a file.

    Args:
        key: the same for each attempt to send the same content, hexadecimal.
        path: the name; in a folder, the path below it, with ``/``.
        size: bytes; ``None`` if not known before the end.
        tree: key of the folder that this is in; empty outside of one.
        root: the folder's name.
    """

    key: str
    path: str
    size: int | None = None
    tree: str = ""
    root: str = ""


class Accept(msgspec.Struct, frozen=True):
    """The receiver has so many bytes, and takes the rest."""

    offset: int


class End(msgspec.Struct, frozen=True):
    """Everything was sent; the hash is of the whole file, in hexadecimal."""

    sha256: str


class Close(msgspec.Struct, frozen=True):
    """Everything in a folder was sent."""

    tree: str
    root: str


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a file, or a folder, ended; also the answer to an offer that is refused.

    Args:
        code: empty if it is stored, otherwise that of an error.
        message: why not.
        bytes: size of the whole file.
    """

    code: str = ""
    message: str = ""
    bytes: int = 0


class Abort(msgspec.Struct, frozen=True):
    """The sender gives the file up; it may be offered again."""

    reason: str = ""


Control = Offer | Accept | End | Result | Abort | Close
_KINDS: Final[dict[type[Control], Kind]] = {
    Offer: Kind.OFFER,
    Accept: Kind.ACCEPT,
    End: Kind.END,
    Result: Kind.RESULT,
    Abort: Kind.ABORT,
    Close: Kind.CLOSE,
}
_TYPES: Final = {kind: made for made, kind in _KINDS.items()}


def encode(control: Control) -> bytes:
    """A whole frame."""
    body = msgspec.json.encode(control)
    return header(FrameType.BULK, 1 + len(body)) + bytes((_KINDS[type(control)],)) + body


def data_head(length: int) -> bytes:
    """What stands before so many bytes of data."""
    return header(FrameType.BULK, 1 + length) + bytes((Kind.DATA,))


def parse(payload: bytes) -> Control:
    """What a payload other than of data says.

    Raises:
        FrameError: it is malformed.
    """
    if not payload or len(payload) > MAX_CONTROL:
        raise FrameError("a malformed bulk frame")
    try:
        made = _TYPES[Kind(payload[0])]
        control: Control = msgspec.json.decode(payload[1:], type=made)
    except (KeyError, ValueError, RecursionError) as error:
        raise FrameError("a malformed bulk frame") from error
    _check(control)
    return control


def _check(control: Control) -> None:
    match control:
        case Offer():
            _hex(control.key, KEY_LEN)
            if control.tree:
                _hex(control.tree, KEY_LEN)
            if max(len(control.path), len(control.root)) > MAX_PATH:
                raise FrameError("a path that is too long")
            _size(control.size or 0)
        case Close():
            _hex(control.tree, KEY_LEN)
            if len(control.root) > MAX_PATH:
                raise FrameError("a path that is too long")
        case Accept():
            _size(control.offset)
        case End():
            _hex(control.sha256, _HASH_LEN)
        case Result() | Abort():
            pass


def _size(size: int) -> None:
    if not 0 <= size <= _MAX_SIZE:
        raise FrameError("a size out of range")


def _hex(text: str, length: int) -> None:
    if len(text) != 2 * length or not text.isascii() or set(text) - set("0123456789abcdef"):
        raise FrameError("not a number in hexadecimal")
