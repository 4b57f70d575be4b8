"""Interfaces and addresses of this host, read from rtnetlink(7).

Parses what the kernel answers; which of it matters is decided in
:mod:`pilotstack._interfaces`. Nothing is changed. Malformed messages are skipped.
"""

from __future__ import annotations

import ipaddress
import socket as sockets
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Message header: length, type, flags, sequence, port. Native byte order, as all of rtnetlink.
_HEADER: Final = struct.Struct("=IHHII")
#: Attribute header: length, type.
_ATTRIBUTE: Final = struct.Struct("=HH")
#: ``ifinfomsg``: family, type, index, flags, change. ``ifaddrmsg``: family, prefix, flags, scope,
#: index.
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_WORD: Final = struct.Struct("=I")

_ERROR, _DONE = 2, 3
_NEW_LINK, _GET_LINK = 16, 18
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
#: NLM_F_REQUEST and NLM_F_DUMP.
_DUMP: Final = 0x301
#: The low 14 bits of an attribute's type; the others are flags.
_TYPE_MASK: Final = 0x3FFF
_IFLA_NAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_INFO, _INFO_KIND = 3, 4, 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8

#: Flags of a link.
UP: Final = 0x1
RUNNING: Final = 0x40
#: Flags of an address: temporary (RFC 8981), not usable (RFC 4862), not for new sessions.
TEMPORARY: Final = 0x01
FAILED: Final = 0x08
DEPRECATED: Final = 0x20
TENTATIVE: Final = 0x40

#: Seconds for the kernel's answer; bytes of one read, and reads of one answer at most.
_PATIENCE: Final = 2.0
_READ: Final = 1 << 17
_MAX_READS: Final = 4096


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; ``kind`` is that of a virtual one (``bridge``, ``veth``), else empty."""

    index: int
    name: str
    kind: str
    flags: int
    mtu: int
    #: Index of the bridge or bond that it is a port of; 0 for none.
    master: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address of an interface."""

    link: int
    address: str
    prefix: int
    flags: int


def dump() -> tuple[list[Link], list[Assigned]]:
    """All interfaces and their addresses.

    Raises:
        OSError: this system has no rtnetlink, or it may not be used.
    """
    with _opened() as asking:
        return (
            list(links_of(_ask(asking, _GET_LINK, 1))),
            list(addresses_of(_ask(asking, _GET_ADDRESS, 2))),
        )


def _opened() -> sockets.socket:
    if not hasattr(sockets, "AF_NETLINK"):
        raise OSError("no rtnetlink")
    asking = sockets.socket(sockets.AF_NETLINK, sockets.SOCK_RAW, 0)
    asking.settimeout(_PATIENCE)
    return asking


def _message(kind: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _DUMP, sequence, 0) + body


def _ask(asking: sockets.socket, kind: int, sequence: int) -> bytes:
    # An ifinfomsg of zeros; the kernel takes it for ifaddrmsg, too.
    asking.send(_message(kind, sequence, bytes(_LINK.size)))
    found = bytearray()
    for _ in range(_MAX_READS):
        part = asking.recv(_READ)
        found += part
        for kind_of_message, _ in messages_of(part):
            if kind_of_message == _ERROR:
                raise OSError("rtnetlink refuses")
            if kind_of_message == _DONE:
                return bytes(found)
    raise OSError("rtnetlink does not end")


def messages_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and bodies of the messages in what was read."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def links_of(data: bytes) -> Iterator[Link]:
    """The interfaces in an answer."""
    for kind, body in messages_of(data):
        if kind == _NEW_LINK and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            found = dict(_attributes(body[_LINK.size :]))
            info = dict(_attributes(found.get(_IFLA_INFO, b"")))
            yield Link(
                index,
                _text(found.get(_IFLA_NAME, b"")),
                _text(info.get(_INFO_KIND, b"")),
                flags,
                _number(found.get(_IFLA_MTU, b"")),
                _number(found.get(_IFLA_MASTER, b"")),
            )


def addresses_of(data: bytes) -> Iterator[Assigned]:
    """The addresses in an answer."""
    for kind, body in messages_of(data):
        if kind == _NEW_ADDRESS and len(body) >= _ADDRESS.size:
            _, prefix, flags, _, link = _ADDRESS.unpack_from(body)
            found = dict(_attributes(body[_ADDRESS.size :]))
            # IFA_ADDRESS is the far end of a point-to-point link.
            packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
            with suppress(ValueError):
                address = str(ipaddress.ip_address(packed))
                more = _number(found.get(_IFA_FLAGS, b""))
                yield Assigned(link, address, prefix, flags | more)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return length + 3 & ~3


def _number(data: bytes) -> int:
    return int(_WORD.unpack(data)[0]) if len(data) == _WORD.size else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
