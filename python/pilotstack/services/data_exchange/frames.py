"""Frames of the data exchange: type, length, payload (docs/reference/protocol/services).

A pure codec. Decoders take bytes of a peer, bound what they read, and raise :exc:`FrameError` only.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import Final

import msgspec

__all__ = [
    "Ack",
    "Frame",
    "FrameError",
    "FrameType",
    "Header",
    "Tag",
    "TagHead",
    "Trace",
    "ack",
    "encode",
    "file_payload",
    "parse_ack",
    "parse_header",
    "refusal",
    "split_file",
    "tagged",
    "trace",
    "type_name",
]

HEADER_LEN: Final = 8
#: Largest message and largest FILE payload that every known receiver takes, bytes.
MAX_MESSAGE: Final = 1 << 24
MAX_LENGTH: Final = (1 << 32) - 1
#: Largest name that the u16 before it can announce, bytes.
MAX_NAME: Final = 0xFFFF
#: Bounds of the JSON header of a tagged frame, bytes.
MAX_TAG: Final = 1024
#: Bytes of a text that a peer sends as its answer which are looked at.
MAX_ANSWER: Final = 1 << 16

_HEADER: Final = struct.Struct(">II")
_TRACE: Final = struct.Struct(">Iq")
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_ACK: Final = re.compile(r"ACK (\w+(?:\(\d+\))?) (\d{1,12}) bytes( \(duplicate\))?", re.ASCII)
_ERR: Final = re.compile(r"ERR (\w+(?:\(\d+\))?) save failed: (.*)", re.ASCII | re.DOTALL)


class FrameError(ValueError):
    """A peer sent a frame that cannot be decoded."""


class FrameType(IntEnum):
    """The types of existing nodes, and ours for files (:mod:`.bulk`)."""

    TEXT = 1
    BINARY = 2
    JSON = 3
    FILE = 4
    TRACE = 5
    FILESTREAM = 7
    GOVERNED = 8
    GOVERNED_FILESTREAM = 9
    TAGGED = 10
    BULK = 0x50535446


#: Types whose payload is a message for the inbox.
MESSAGES: Final = frozenset({FrameType.TEXT, FrameType.BINARY, FrameType.JSON})


class Header(msgspec.Struct, frozen=True):
    """What stands before a payload: its type, known or not, and its length in bytes."""

    type: int
    length: int


class Frame(msgspec.Struct, frozen=True):
    """A whole frame."""

    type: int
    payload: bytes


class Tag(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ids of a message, chosen by its sender; empty if there is none."""

    message_id: str = ""
    reply_to: str = ""


class TagHead(msgspec.Struct, frozen=True):
    """The part of a tagged frame before the payload of the frame inside."""

    tag: Tag
    inner_type: int


class Trace(msgspec.Struct, frozen=True):
    """The part of a traced frame before the payload of the frame inside; nanoseconds since 1970."""

    inner_type: int
    sent_ns: int


class Ack(msgspec.Struct, frozen=True):
    """What a receiver says of a frame. ``reason`` is empty unless it was refused."""

    name: str
    length: int = 0
    reason: str = ""
    is_duplicate: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether the receiver keeps it. Old ones acknowledge unknown types, and drop them."""
        return not self.reason and not self.name.startswith("UNKNOWN")


def type_name(number: int) -> str:
    """The name of a type in acknowledgements."""
    known = number != FrameType.BULK and number in FrameType._value2member_map_
    return FrameType(number).name if known else f"UNKNOWN({number})"


def encode(number: int, payload: bytes) -> bytes:
    """A frame.

    Raises:
        FrameError: the payload is too long.
    """
    if len(payload) > MAX_LENGTH:
        raise FrameError(f"a frame has at most {MAX_LENGTH} bytes, not {len(payload)}")
    return header(number, len(payload)) + payload


def header(number: int, length: int) -> bytes:
    """The header of a frame whose payload follows."""
    return _HEADER.pack(number, length)


def parse_header(data: bytes) -> Header:
    """The header in eight bytes."""
    return Header(*_HEADER.unpack(data))


# FILE: u16 length of the name, the name, the data


def file_head(name: str) -> bytes:
    """What stands before the data of a FILE frame.

    Raises:
        FrameError: the name is too long.
    """
    raw = name.encode()
    if len(raw) > MAX_NAME:
        raise FrameError(f"a name has at most {MAX_NAME} bytes, not {len(raw)}")
    return len(raw).to_bytes(2) + raw


def file_payload(name: str, data: bytes) -> bytes:
    """The payload of a FILE frame."""
    return file_head(name) + data


def split_file(payload: bytes) -> tuple[bytes, bytes]:
    """Name and data of a FILE payload. One that announces more name than there is has no name, and
    is data altogether."""
    length = int.from_bytes(payload[:2])
    if len(payload) < 2 or 2 + length > len(payload):
        return b"", payload
    return payload[2 : 2 + length], payload[2 + length :]


# TAGGED: u16 length of the header, JSON, u32 type of the frame inside, its payload


def tagged(tag: Tag, inner: Frame) -> Frame:
    """A frame inside another that names it.

    Raises:
        FrameError: an id has characters that no receiver takes.
    """
    _check_tag(tag)
    if inner.type == FrameType.TAGGED:
        raise FrameError("a tagged frame cannot be tagged")
    head = msgspec.json.encode(tag)
    payload = len(head).to_bytes(2) + head + inner.type.to_bytes(4) + inner.payload
    return Frame(FrameType.TAGGED, payload)


def parse_tag_len(data: bytes) -> int:
    """The length of a tag's JSON.

    Raises:
        FrameError: it is out of range.
    """
    length = int.from_bytes(data)
    if not 1 <= length <= MAX_TAG:
        raise FrameError(f"a tag of {length} bytes")
    return length


def parse_tag_head(data: bytes) -> TagHead:
    """The tag, and the type inside.

    Args:
        data: JSON and four bytes.

    Raises:
        FrameError: it is malformed.
    """
    try:
        tag = msgspec.json.decode(data[:-4], type=Tag)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FrameError("a malformed tag") from error
    _check_tag(tag)
    inner = int.from_bytes(data[-4:])
    if inner == FrameType.TAGGED:
        raise FrameError("a tag inside a tag")
    return TagHead(tag, inner)


def split_tagged(payload: bytes) -> tuple[TagHead, bytes]:
    """The tag, and the payload inside, of a whole tagged frame.

    Raises:
        FrameError: it is malformed.
    """
    length = parse_tag_len(payload[:2])
    if len(payload) < 2 + length + 4:
        raise FrameError("a tag that is cut short")
    end = 2 + length + 4
    return parse_tag_head(payload[2:end]), payload[end:]


def _check_tag(tag: Tag) -> None:
    for text in (tag.message_id, tag.reply_to):
        if text and not _ID.fullmatch(text):
            raise FrameError("an id of other characters than letters, digits and ._:-")


# TRACE: u32 type of the frame inside, i64 nanoseconds, its payload

TRACE_LEN: Final = _TRACE.size


def trace(inner: Frame, sent_ns: int) -> Frame:
    """A frame whose receiver answers with times."""
    payload = _TRACE.pack(inner.type, sent_ns) + inner.payload
    return Frame(FrameType.TRACE, payload)


def parse_trace(data: bytes) -> Trace:
    """The head of a traced frame.

    Raises:
        FrameError: it is cut short.
    """
    if len(data) < TRACE_LEN:
        raise FrameError(f"trace payload too short: {len(data)} bytes")
    return Trace(*_TRACE.unpack(data[:TRACE_LEN]))


# Answers


def ack(number: int, length: int, *, is_duplicate: bool = False) -> str:
    """The text that acknowledges a frame."""
    return f"ACK {type_name(number)} {length} bytes{' (duplicate)' if is_duplicate else ''}"


def refusal(number: int, reason: str) -> str:
    """The text that refuses a frame."""
    return f"ERR {type_name(number)} save failed: {reason}"


def unsupported(number: int) -> str:
    """The text that refuses a type."""
    return refusal(number, f"unsupported frame type {number}")


def parse_ack(frame: Frame) -> Ack | None:
    """What an answer says; ``None`` if it is something else, such as an application's answer."""
    if frame.type != FrameType.TEXT or len(frame.payload) > MAX_ANSWER:
        return None
    text = frame.payload.decode(errors="replace")
    if match := _ACK.fullmatch(text):
        return Ack(match[1], int(match[2]), is_duplicate=match[3] is not None)
    if match := _ERR.fullmatch(text):
        return Ack(match[1], reason=match[2] or "refused")
    if text.startswith("ERR "):
        return Ack("", reason=text[4:] or "refused")
    return None
