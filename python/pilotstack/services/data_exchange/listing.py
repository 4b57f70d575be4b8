"""What arrived, for those who read it: the files, and the messages of the inbox.

Names and contents come from peers: they are data, not text to be trusted. Everything here blocks
for as long as a folder takes to be read.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from pilotstack import _files
from pilotstack.services.data_exchange.arrivals import Arrivals
from pilotstack.services.data_exchange.inbox import Message
from pilotstack.services.data_exchange.stores import FILES, INBOX
from pilotstack.services.data_exchange.trees import size_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["InboxMessage", "Mailbox", "ReceivedFile", "ReceivedFolder"]

#: Bytes of a message's file: the largest message, as base64 or with each byte escaped.
_MAX_FILE: Final = 128 << 20
_PARTIALS: Final = ".partial"
#: Seconds between looks for a message that is waited for.
_LOOK: Final = 0.1


class ReceivedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or a folder, that arrived.

    Args:
        modified: RFC 3339, UTC.
        sender: address of the node, if known.
        files: how many are in it, if it is a folder.
    """

    name: str
    bytes: int
    modified: str
    path: str
    sender: str = msgspec.field(default="", name="from")
    sha256: str = ""
    files: int = 1


class InboxMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and the id that it is read by."""

    id: str
    message: Message
    #: When its file was written, seconds since 1970.
    at: float


class ReceivedFolder:
    """Files that arrived.

    Args:
        home: the folder that holds ``received``.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILES

    def list(self) -> list[ReceivedFile]:
        """The files, newest first."""
        arrivals = Arrivals(self.path).load()
        found: list[tuple[float, ReceivedFile]] = []
        for entry in _entries(self.path):
            if entry.name.startswith("."):
                continue
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                inside = sum(len(names) for _, _, names in os.walk(entry.path)) if is_folder else 1
                size, _ = size_of(entry)
                arrival = arrivals.get(entry.name)
                found.append(
                    (
                        status.st_mtime,
                        ReceivedFile(
                            name=entry.name,
                            bytes=size,
                            modified=moment(status.st_mtime),
                            path=str(self.path / entry.name),
                            sender=arrival.address if arrival else "",
                            sha256=arrival.sha256 if arrival else "",
                            files=inside,
                        ),
                    )
                )
        return [file for _, file in sorted(found, key=lambda row: (-row[0], row[1].name))]

    def clear(self, before: float | None = None) -> tuple[int, int]:
        """Removes files, and what is unfinished; returns how many of each.

        Args:
            before: only those that are older, seconds since 1970.
        """
        whole = _remove(self.path, before, is_hidden=False)
        return whole, _remove(self.path / _PARTIALS, before, is_hidden=True)


class Mailbox:
    """The messages of an inbox.

    Args:
        home: the folder that holds ``inbox``.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / INBOX

    def ids(self) -> list[tuple[str, float]]:
        """Ids and times of all messages, newest first."""
        found = []
        for entry in _entries(self.path):
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                with suppress(OSError):
                    at = entry.stat(follow_symlinks=False).st_mtime_ns
                    found.append((at, entry.name.removesuffix(".json")))
        return [(name, at / 1e9) for at, name in sorted(found, reverse=True)]

    async def wait(self, is_wanted: Callable[[Message], bool], since: float) -> InboxMessage:
        """The first message that is wanted, of those that came after ``since``; waits for it.

        Args:
            is_wanted: decides about each message once.
            since: seconds since 1970.
        """
        seen: set[str] = set()
        while True:
            for number, at in reversed(self.ids()):
                if at < since or number in seen:
                    continue
                seen.add(number)
                found = self.read(number)
                if found is not None and is_wanted(found.message):
                    return found
            await anyio.sleep(_LOOK)

    def read(self, number: str) -> InboxMessage | None:
        """A message; ``None`` if there is none with this id, or it is damaged."""
        if "/" in number or number.startswith("."):
            return None
        path = self.path / f"{number}.json"
        try:
            at = path.stat().st_mtime
            message = msgspec.json.decode(_files.read_regular(path, _MAX_FILE), type=Message)
        except (OSError, ValueError, RecursionError):
            # Among the errors of values are damaged messages, and ids that no file can have.
            return None
        return InboxMessage(id=number, message=message, at=at)

    def clear(self, before: float | None = None) -> int:
        """Removes messages, and returns how many.

        Args:
            before: only those that are older, seconds since 1970.
        """
        return _remove(self.path, before, is_hidden=False)


def moment(unix: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as listing:
            return list(listing)
    except FileNotFoundError:
        return []


def _remove(path: Path, before: float | None, *, is_hidden: bool) -> int:
    count = 0
    for entry in _entries(path):
        if entry.name.startswith(".") and not is_hidden:
            continue
        with suppress(OSError):
            if before is not None and entry.stat(follow_symlinks=False).st_mtime >= before:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
            count += 1
    return count
