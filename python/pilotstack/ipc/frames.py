"""Frames of the daemon's socket and the arguments that drivers put into them.

A frame is ``u32 length | u8 command | payload``, big endian; ``docs/reference/protocol/ipc.md`` has
the layouts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack.errors import InvalidArgument
from pilotstack.ipc import codes
from pilotstack.ipc.layout import U16, Bytes, is_number

if TYPE_CHECKING:
    from pilotstack.types import Address

__all__ = [
    "datagram",
    "dial_flags",
    "endpoint",
    "frame",
    "path",
    "port",
    "seconds",
    "send_from",
]

_MAX_PORT = 0xFFFF
#: Bytes of a Unix socket's path, without its NUL.
_MAX_PATH = 107 if sys.platform == "linux" else 103
#: A limit of this many seconds or more does not fit its field of milliseconds.
_MAX_SECONDS = 1 << 22
_HEADS = {command: bytes((command,)) for command in range(256)}
_DATA = Bytes(codes.MAX_DATAGRAM)


def frame(command: int, *parts: bytes | memoryview) -> bytes:
    """A whole frame.

    Raises:
        InvalidArgument: it is over the limit, or a part is not bytes.
    """
    try:
        body = b"".join(parts)
    except TypeError as error:
        raise InvalidArgument(f"not bytes: {error}") from error
    size = len(body) + 1
    if size > codes.MAX_FRAME:
        raise InvalidArgument(
            f"a request of {size - 1} bytes is too large",
            hint=f"at most {codes.MAX_FRAME - 1} fit",
        )
    return size.to_bytes(codes.LENGTH_LEN) + _HEADS[command] + body


def port(value: int) -> int:
    """A port to bind, or 0 for any.

    Raises:
        InvalidArgument: there is no such port.
    """
    if not is_number(value) or not 0 <= value <= _MAX_PORT:
        raise InvalidArgument(
            f"no such port: {value!r}", hint="an integer of 1 to 65535; 0 for any that is free"
        )
    return value


def seconds(value: float) -> float:
    """A time limit.

    Raises:
        InvalidArgument: it is not a positive number of seconds.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value < _MAX_SECONDS
    ):
        raise InvalidArgument(
            f"not a time limit: {value!r}",
            hint="a positive number of seconds; None for the default",
        )
    return value


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
        raise InvalidArgument(f"not a path: {value!r}") from error
    if b"\0" in data or len(data) > _MAX_PATH:
        raise InvalidArgument(
            f"no socket can have this path of {len(data)} bytes",
            hint=f"at most {_MAX_PATH} bytes fit, without NUL",
        )
    return data


def endpoint(address: Address, port: int) -> bytes:
    """Address and port."""
    return address.pack() + U16.pack(port, "port")


def dial_flags(no_delay: bool, congestion: str | None) -> int:
    """The flags of OPEN_STREAM.

    Raises:
        InvalidArgument: no controller has this name.
    """
    flags = codes.NO_DELAY if no_delay else 0
    if congestion is None:
        return flags
    if not isinstance(congestion, str) or congestion not in codes.CONGESTION:
        raise InvalidArgument(
            f"unknown congestion controller {congestion!r}",
            hint=f"one of {', '.join(codes.CONGESTION)}",
        )
    return flags | codes.CONGESTION[congestion] << 1


def datagram(data: bytes) -> bytes:
    """The contents of a datagram.

    Raises:
        InvalidArgument: they are not bytes, or none, or too many.
    """
    return _DATA.pack(data, "data")


def send_from(source: int, address: Address, port: int, data: bytes) -> bytes:
    """A datagram from a bound port."""
    return frame(codes.SEND_FROM, U16.pack(source, "port"), endpoint(address, port), datagram(data))
