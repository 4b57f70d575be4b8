"""The inbox: messages of peers, one JSON file for each, as existing programs read them.

It is bounded: a sender that fills it loses its own oldest messages first. Everything here blocks,
and runs in threads.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _files
from pilotstack.services.data_exchange.frames import FrameType, Tag, type_name
from pilotstack.services.data_exchange.names import stamp
from pilotstack.services.data_exchange.refusals import DISK_FULL, Refused, telling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Inbox", "InboxLimits", "Message"]

_FOLDER_MODE: Final = 0o700
#: What stands at the beginning of each file of ours, so that a start need not read all of it.
_FROM: Final = re.compile(rb'\{"from":"([^"]{1,64})"')
_HEAD: Final = 128
#: To how much of a bound an inbox is emptied that has reached it.
_EMPTIED: Final = 0.9


class InboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of an inbox. Sizes are in bytes."""

    messages: int = 10_000
    bytes: int = 256 << 20
    #: Room that stays free on the disk.
    reserve_bytes: int = 64 << 20


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as it is stored. ``data`` is its text, ``data_b64`` what is none."""

    sender: str = msgspec.field(name="from")
    type: str
    received_at: str
    bytes: int
    data: str | None = None
    data_b64: str | None = None
    data_encoding: str = ""
    message_id: str = ""
    reply_to: str = ""


class _Entry(msgspec.Struct, frozen=True):
    size: int
    sender: str


class Inbox:
    """A folder of messages.

    Args:
        path: made if missing, with mode 0700.
        limits: how much it may hold.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, limits: InboxLimits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.limits = limits or InboxLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] | None = None
        self._counts: Counter[str] = Counter()
        self._bytes = 0
        self._number = 0
        #: Messages that had to make room for others.
        self.evicted = 0

    def store(self, sender: str, kind: int, data: bytes, tag: Tag | None = None) -> str:
        """Stores a message durably, and returns its id.

        Args:
            sender: its address.
            kind: the type of its frame.

        Raises:
            Refused: it cannot be stored.
        """
        tag, now = tag or Tag(), self._clock()
        text = None if kind == FrameType.BINARY else _text(data)
        message = Message(
            sender=sender,
            type=type_name(kind),
            received_at=_moment(now),
            bytes=len(data),
            data=text,
            data_b64=base64.b64encode(data).decode("ascii") if text is None else None,
            data_encoding="base64" if text is None else "",
            message_id=tag.message_id,
            reply_to=tag.reply_to,
        )
        content = msgspec.json.encode(message)
        with telling(), self._lock:
            entries = self._opened()
            free = os.statvfs(self.path)
            if free.f_bavail * free.f_frsize < len(content) + self.limits.reserve_bytes:
                raise Refused("disk_full", DISK_FULL)
            number = self._write(message.type, now, content)
            self._add(entries, f"{number}.json", _Entry(len(content), sender))
            self._evict(entries)
        return number

    def _write(self, kind: str, now: float, content: bytes) -> str:
        while True:
            self._number += 1
            number = f"{kind}-{stamp(now, self._number)}"
            with suppress(FileExistsError):
                _files.replace(self.path / f"{number}.json", [content], is_new=True)
                return number

    # Bounds

    def _opened(self) -> OrderedDict[str, _Entry]:
        if self._entries is None:
            self.path.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            self._entries = self._scan()
        return self._entries

    def _scan(self) -> OrderedDict[str, _Entry]:
        found: list[tuple[float, str, _Entry]] = []
        with os.scandir(self.path) as listing:
            for each in listing:
                if each.name.endswith(".json") and each.is_file(follow_symlinks=False):
                    status = each.stat(follow_symlinks=False)
                    entry = _Entry(status.st_size, _sender_of(self.path / each.name))
                    found.append((status.st_mtime, each.name, entry))
        entries: OrderedDict[str, _Entry] = OrderedDict()
        self._counts.clear()
        self._bytes = 0
        for _, name, entry in sorted(found, key=lambda row: row[:2]):
            self._add(entries, name, entry)
        return entries

    def _add(self, entries: OrderedDict[str, _Entry], name: str, entry: _Entry) -> None:
        entries[name] = entry
        self._counts[entry.sender] += 1
        self._bytes += entry.size

    def _evict(self, entries: OrderedDict[str, _Entry]) -> None:
        limits = self.limits
        if len(entries) <= limits.messages and self._bytes <= limits.bytes:
            return
        # The user may have removed some.
        entries = self._entries = self._scan()
        if len(entries) <= limits.messages and self._bytes <= limits.bytes:
            return
        while entries and (
            len(entries) > limits.messages * _EMPTIED or self._bytes > limits.bytes * _EMPTIED
        ):
            greedy, _ = self._counts.most_common(1)[0]
            name = next(name for name, entry in entries.items() if entry.sender == greedy)
            entry = entries.pop(name)
            self._counts[entry.sender] -= 1
            self._bytes -= entry.size
            self.evicted += 1
            with suppress(OSError):
                (self.path / name).unlink()


def _sender_of(path: Path) -> str:
    try:
        fd = _files.open_regular(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        match = _FROM.match(os.read(fd, _HEAD))
    finally:
        os.close(fd)
    return match[1].decode(errors="replace") if match else ""


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _moment(now: float) -> str:
    """RFC 3339 in UTC, with nanoseconds."""
    whole = int(now)
    rest = int((now - whole) * 1e9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:09d}Z"
