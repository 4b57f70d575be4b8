"""Frames of the daemon's socket: codes and builders (``docs/reference/protocol/ipc.md``)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack.errors import InvalidArgument
from pilotstack.ipc.codes import CONGESTION

if TYPE_CHECKING:
    from pilotstack.types import Address

MAX_FRAME = 1 << 20
LENGTH_LEN = 4
VERSION = 1
MAX_PORT = 0xFFFF
#: Bytes of a datagram.
MAX_DATAGRAM = 65_435
#: Bytes of a hostname (RFC 1035 section 2.3.4); the registry takes fewer.
MAX_NAME = 253
#: Bytes of an admin token; its length is two bytes.
MAX_TOKEN = 0xFFFF
#: Bytes of a Unix socket's path, without its NUL.
MAX_PATH = 107 if sys.platform == "linux" else 103
#: A limit of this many seconds or more does not fit its field of milliseconds.
MAX_SECONDS = 1 << 22

BIND = 0x01
BIND_OK = 0x02
DIAL = 0x03
DIAL_OK = 0x04
ACCEPT = 0x05
SEND = 0x06
RECV = 0x07
CLOSE = 0x08
CLOSE_OK = 0x09
ERROR = 0x0A
SEND_TO = 0x0B
RECV_FROM = 0x0C
INFO = 0x0D
INFO_OK = 0x0E
HANDSHAKE = 0x0F
RESOLVE_HOSTNAME = 0x11
SET_HOSTNAME = 0x13
SET_VISIBILITY = 0x15
DEREGISTER = 0x17
SET_TAGS = 0x19
NETWORK = 0x1F
ROTATE_KEY = 0x25
BROADCAST = 0x29
ENROLL_RECOVERY = 0x31
UNBIND = 0x37
HELLO = 0x60
HELLO_OK = 0x61
REQUEST = 0x62
REPLY = 0x63
FAILURE = 0x64
OPEN_STREAM = 0x65
STREAM_OPENED = 0x66
LISTEN_STREAMS = 0x67
LISTENING = 0x68
STREAM_ACCEPTED = 0x69
BIND_DATAGRAMS = 0x6A
DATAGRAMS_BOUND = 0x6B
SEND_FROM = 0x6C
UNBIND_DATAGRAMS = 0x6D
STREAM_FAILED = 0x6E
CANCEL_REQUEST = 0x6F
FORWARD_PATH = 0x70
ABORT_STREAM = 0x71
REGISTER = 0x81
DISCONNECT = 0x83

#: Reasons of STREAM_FAILED.
REASONS = {
    1: "refused",
    2: "reset",
    3: "aborted",
    4: "timeout",
    5: "idle",
    6: "peer_restarted",
    7: "unreachable",
    8: "shutdown",
}


def frame(command: int, *parts: bytes) -> bytes:
    """A whole frame.

    Raises:
        InvalidArgument: it would be over the limit, or a part is not bytes.
    """
    try:
        body = b"".join(parts)
    except TypeError as error:
        raise InvalidArgument(f"not bytes: {error}") from error
    if len(body) >= MAX_FRAME:
        raise InvalidArgument(
            f"a request of {len(body)} bytes is too large", hint=f"at most {MAX_FRAME - 1} fit"
        )
    return (len(body) + 1).to_bytes(LENGTH_LEN) + bytes((command,)) + body


def u8(value: int, what: str = "number") -> bytes:
    """One byte."""
    return _unsigned(value, 1, what)


def u16(value: int, what: str = "number") -> bytes:
    """Two bytes, big endian."""
    return _unsigned(value, 2, what)


def u32(value: int, what: str = "number") -> bytes:
    """Four bytes, big endian."""
    return _unsigned(value, 4, what)


def _unsigned(value: int, size: int, what: str) -> bytes:
    limit = (1 << 8 * size) - 1
    if not is_number(value) or not 0 <= value <= limit:
        raise InvalidArgument(f"no such {what}: {value!r}", hint=f"a whole number up to {limit}")
    return value.to_bytes(size)


def is_number(value: object) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def port(value: int) -> int:
    """A port to bind, or 0 for any.

    Raises:
        InvalidArgument: there is no such port.
    """
    if not is_number(value) or not 0 <= value <= MAX_PORT:
        raise InvalidArgument(
            f"no such port: {value!r}", hint="a whole number up to 65535; 0 for any that is free"
        )
    return value


def seconds(value: float) -> float:
    """A time limit.

    Raises:
        InvalidArgument: it is no positive number of seconds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_SECONDS:
        raise InvalidArgument(
            f"no time limit: {value!r}", hint="a positive number of seconds; None for the default"
        )
    return value


def text(value: str, what: str, limit: int, *, may_be_empty: bool = False) -> bytes:
    """A name or the like in UTF-8.

    Raises:
        InvalidArgument: it is no text, empty or too long.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"no {what}: {value!r}", hint="a string")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the {what} is no text: {error.reason}") from error
    if not data and not may_be_empty:
        raise InvalidArgument(f"the {what} is empty")
    if len(data) > limit:
        raise InvalidArgument(f"the {what} has {len(data)} bytes; at most {limit} fit")
    return data


def payload(data: bytes, limit: int) -> bytes:
    """The contents of a datagram.

    Raises:
        InvalidArgument: they are no bytes, or none, or too many.
    """
    try:
        view = memoryview(data)
    except TypeError as error:
        raise InvalidArgument(f"a datagram has bytes, not {type(data).__name__}") from error
    if not 0 < view.nbytes <= limit:
        raise InvalidArgument(f"a datagram has 1 to {limit} bytes, not {view.nbytes}")
    return view.tobytes()


def path(value: str | os.PathLike[str]) -> bytes:
    """A path of a Unix socket as the daemon must see it, which works in another directory.

    Raises:
        InvalidArgument: no socket can have this path.
    """
    try:
        if not os.fspath(value):
            raise TypeError("empty")
        data = os.fsencode(Path(value).absolute())
    except TypeError as error:
        raise InvalidArgument(f"no path: {value!r}") from error
    if b"\0" in data or len(data) > MAX_PATH:
        raise InvalidArgument(
            f"no socket can have this path of {len(data)} bytes",
            hint=f"at most {MAX_PATH} bytes fit, without NUL",
        )
    return data


def endpoint(address: Address, port: int) -> bytes:
    """Address and port."""
    return address.pack() + u16(port, "port")


def dial_flags(no_delay: bool, congestion: str | None) -> int:
    """The flags of OPEN_STREAM.

    Raises:
        InvalidArgument: no controller has this name.
    """
    if congestion is None:
        return int(no_delay)
    if not isinstance(congestion, str) or congestion not in CONGESTION:
        raise InvalidArgument(
            f"unknown congestion controller {congestion!r}", hint=f"one of {', '.join(CONGESTION)}"
        )
    return int(no_delay) | CONGESTION[congestion] << 1
