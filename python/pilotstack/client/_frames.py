"""Frames of the daemon's socket: codes and builders. ``docs/reference/ipc.md`` has the layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.errors import InvalidArgument
from pilotstack.wellknown import CONGESTION

if TYPE_CHECKING:
    from pilotstack.types import Address

MAX_FRAME = 1 << 20
LENGTH_LEN = 4
VERSION = 1

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
    """A whole frame."""
    body = b"".join(parts)
    return (len(body) + 1).to_bytes(LENGTH_LEN) + bytes((command,)) + body


def u16(value: int) -> bytes:
    """Two octets, big endian."""
    return value.to_bytes(2)


def u32(value: int) -> bytes:
    """Four octets, big endian."""
    return value.to_bytes(4)


def endpoint(address: Address, port: int) -> bytes:
    """Address and port."""
    return address.pack() + port.to_bytes(2)


def dial_flags(no_delay: bool, congestion: str | None) -> int:
    """The flags of OPEN_STREAM.

    Raises:
        InvalidArgument: no controller has this name.
    """
    if congestion is None:
        return int(no_delay)
    if congestion not in CONGESTION:
        raise InvalidArgument(
            f"unknown congestion controller {congestion!r}", hint=f"one of {', '.join(CONGESTION)}"
        )
    return int(no_delay) | CONGESTION[congestion] << 1
