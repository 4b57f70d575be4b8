"""Payloads of FILESTREAM frames: a file in chunks of 48 KiB that can be resumed.

A pure codec of what one generation of existing nodes speaks; our own nodes use :mod:`.bulk`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

from pilotstack.services.data_exchange.frames import FrameError

#: Data in a chunk, and chunks ahead of the last acknowledgement.
CHUNK: Final = 49_152
WINDOW: Final = 16
#: Largest payload of a frame: a chunk and what stands before it, with room for larger chunks.
MAX_PAYLOAD: Final = 1 << 20
ID_LEN: Final = 16
#: The id of answers to frames that have none.
NO_ID: Final = bytes(ID_LEN)
#: Largest name, bytes.
MAX_NAME: Final = 255
#: Largest text of an answer, bytes.
MAX_TEXT: Final = 4096

_INIT: Final = struct.Struct(">Q32sIH")


class Kind(IntEnum):
    """What a frame is for."""

    INIT = 1
    CHUNK = 2
    ACK = 3
    DONE = 4
    INIT_ACK = 5
    COMPLETE = 6
    ABORT = 7


class Init(msgspec.Struct, frozen=True):
    """A sender announces a file."""

    id: bytes
    size: int
    sha256: bytes
    name: bytes
    chunk: int = CHUNK


class Chunk(msgspec.Struct, frozen=True):
    """Data at an offset."""

    id: bytes
    offset: int
    data: bytes


class Ack(msgspec.Struct, frozen=True):
    """How many bytes the receiver has, from the first on."""

    id: bytes
    length: int


class Done(msgspec.Struct, frozen=True):
    """Everything was sent."""

    id: bytes


class InitAck(msgspec.Struct, frozen=True):
    """The receiver takes the file, from this offset on."""

    id: bytes
    offset: int


class Complete(msgspec.Struct, frozen=True):
    """How a transfer ended."""

    id: bytes
    is_ok: bool
    text: str = ""


class Abort(msgspec.Struct, frozen=True):
    """One side gives up."""

    id: bytes
    text: str


class Unknown(msgspec.Struct, frozen=True):
    """A kind that we do not know; it is ignored."""

    id: bytes
    kind: int


Message = Init | Chunk | Ack | Done | InitAck | Complete | Abort | Unknown


def encode(message: Message) -> bytes:
    """The payload of a frame."""
    match message:
        case Init():
            name = message.name
            head = _INIT.pack(message.size, message.sha256, message.chunk, len(name))
            return _join(Kind.INIT, message.id, head + name)
        case Chunk():
            return _join(Kind.CHUNK, message.id, message.offset.to_bytes(8) + message.data)
        case Ack():
            return _join(Kind.ACK, message.id, message.length.to_bytes(8))
        case Done():
            return _join(Kind.DONE, message.id, b"")
        case InitAck():
            return _join(Kind.INIT_ACK, message.id, message.offset.to_bytes(8))
        case Complete():
            body = bytes((not message.is_ok,)) + message.text.encode()
            return _join(Kind.COMPLETE, message.id, body)
        case Abort():
            return _join(Kind.ABORT, message.id, message.text.encode())
        case Unknown():
            return _join(message.kind, message.id, b"")


def _join(kind: int, number: bytes, body: bytes) -> bytes:
    return bytes((kind,)) + number + body


def parse(payload: bytes) -> Message:
    """The message in a payload.

    Raises:
        FrameError: it is malformed; the text is what existing receivers answer.
    """
    if len(payload) < 1 + ID_LEN:
        raise FrameError("malformed stream frame")
    kind, number, body = payload[0], payload[1 : 1 + ID_LEN], payload[1 + ID_LEN :]
    match kind:
        case Kind.INIT:
            return _init(number, body)
        case Kind.CHUNK:
            if len(body) < 8:
                raise FrameError("malformed CHUNK")
            return Chunk(number, int.from_bytes(body[:8]), body[8:])
        case Kind.ACK | Kind.INIT_ACK:
            if len(body) != 8:
                raise FrameError("malformed ACK")
            made = Ack if kind == Kind.ACK else InitAck
            return made(number, int.from_bytes(body))
        case Kind.DONE:
            return Done(number)
        case Kind.COMPLETE:
            if not body:
                raise FrameError("malformed COMPLETE")
            return Complete(number, body[0] == 0, _text(body[1:]))
        case Kind.ABORT:
            return Abort(number, _text(body))
        case _:
            return Unknown(number, kind)


def _init(number: bytes, body: bytes) -> Init:
    if len(body) < _INIT.size:
        raise FrameError("malformed INIT")
    size, digest, chunk, length = _INIT.unpack(body[: _INIT.size])
    name = body[_INIT.size :]
    if len(name) != length:
        raise FrameError("malformed INIT")
    return Init(number, size, digest, name, chunk)


def _text(body: bytes) -> str:
    return body[:MAX_TEXT].decode(errors="replace")
