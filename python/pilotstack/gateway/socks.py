"""SOCKS version 5 (RFC 1928), as its server sees it: bytes and values, no IO.

CONNECT without authentication is what the proxy offers. Parsing fails with :class:`Malformed` only,
and asks for more bytes by returning ``None``; no message is longer than :data:`MAX_MESSAGE`.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pilotstack.errors import PilotError

VERSION: Final = 5
#: Bytes of the longest message: a request with a name of 255 bytes, or a greeting with as many
#: methods.
MAX_MESSAGE: Final = 262
_NO_AUTHENTICATION: Final = 0
_NONE_ACCEPTABLE: Final = 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_RESERVED: Final = 0


class Reply(IntEnum):
    """Answers to a request (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class Malformed(Exception):
    """The bytes are not SOCKS 5, or ask for what is not offered.

    Args:
        answer: bytes to send before the connection is closed.
    """

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


class Greeting(msgspec.Struct, frozen=True):
    """How the client can authenticate itself."""

    methods: bytes

    @property
    def answer(self) -> bytes:
        """The method that is chosen."""
        chosen = _NO_AUTHENTICATION if self.is_acceptable else _NONE_ACCEPTABLE
        return bytes((VERSION, chosen))

    @property
    def is_acceptable(self) -> bool:
        """Whether the client can do without."""
        return _NO_AUTHENTICATION in self.methods


class Connect(msgspec.Struct, frozen=True):
    """Where the client wants to be connected to: a name or an IP, and a port."""

    host: str
    port: int


def parse_greeting(data: bytes) -> tuple[Greeting, int] | None:
    """The greeting at the beginning, and its length; ``None`` if it is not all there.

    Raises:
        Malformed: it is none.
    """
    if data and data[0] != VERSION:
        raise Malformed("not SOCKS 5")
    if len(data) < 2:
        return None
    if not data[1]:
        raise Malformed("no methods", bytes((VERSION, _NONE_ACCEPTABLE)))
    end = 2 + data[1]
    return (Greeting(data[2:end]), end) if len(data) >= end else None


def parse_request(data: bytes) -> tuple[Connect, int] | None:
    """The request at the beginning, and its length; ``None`` if it is not all there.

    Raises:
        Malformed: it is none, or another than CONNECT.
    """
    if data and data[0] != VERSION:
        raise Malformed("not SOCKS 5", reply(Reply.FAILURE))
    if len(data) < 5:
        return None
    _, command, reserved, kind, first = data[:5]
    if command != _CONNECT:
        raise Malformed("not CONNECT", reply(Reply.COMMAND_NOT_SUPPORTED))
    if reserved != _RESERVED:
        raise Malformed("reserved byte", reply(Reply.FAILURE))
    match kind:
        case 1:
            begin, length = 4, 4
        case 3:
            begin, length = 5, first
        case 4:
            begin, length = 4, 16
        case _:
            raise Malformed("address type", reply(Reply.ADDRESS_NOT_SUPPORTED))
    end = begin + length + 2
    if len(data) < end:
        return None
    host, port = _host(kind, data[begin : end - 2]), int.from_bytes(data[end - 2 : end])
    if not host or not port:
        raise Malformed("no target", reply(Reply.NOT_ALLOWED))
    return Connect(host, port), end


def _host(kind: int, data: bytes) -> str:
    if kind != _NAME:
        return str(ipaddress.ip_address(data))
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("a name that is not ASCII", reply(Reply.NOT_ALLOWED)) from None


def reply(code: Reply) -> bytes:
    """An answer to a request. The address that the proxy dialled from is not an IP: it is left
    empty."""
    return bytes((VERSION, code, _RESERVED, _IPV4)) + bytes(6)


def reply_to(error: PilotError) -> bytes:
    """The answer for a target that could not be reached."""
    from pilotstack.errors import (
        ConnectionRefused,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        TimedOut,
    )

    match error:
        case ConnectionRefused():
            return reply(Reply.REFUSED)
        case TimedOut():
            return reply(Reply.TTL_EXPIRED)
        case NotFound():
            return reply(Reply.HOST_UNREACHABLE)
        case PermissionDenied() | InvalidArgument():
            return reply(Reply.NOT_ALLOWED)
        case _:
            return reply(Reply.FAILURE)
