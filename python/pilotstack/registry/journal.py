"""The file store: a journal of changes, folded into an atomic snapshot.

``FILE`` is the JSON snapshot of whitepaper section 4.1. ``FILE.journal.N`` are the changes since:
each line is the CRC-32 in hex of the rest, a blank, and a JSON array of changes that were stored
together. The snapshot names the first journal that it does not contain.

A batch is one line, so it is there or it is not. Only the end of a journal can be torn: that was
never acknowledged, and is set aside. Anything else that does not check out stops the start, so that
nothing is overwritten.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.registry import snapshot
from pilotstack.registry.records import encode_change
from pilotstack.registry.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.records import Change
    from pilotstack.registry.snapshot import View

log = structlog.get_logger(__name__)

#: Octets of journal after which it is folded into the snapshot.
FOLD_AT: Final = 16 << 20
#: A journal as long as this fraction of the snapshot is not worth folding yet: what a fold costs
#: grows with the snapshot, and so must what it is spread over.
FOLD_SHARE: Final = 0.5
#: Octets of snapshot after which they are pushed to the disk, so that the journal's own sync never
#: waits behind all of them.
_SYNC_EVERY: Final = 4 << 20


class FileStore:
    """A snapshot file and its journals.

    Args:
        path: the snapshot.
        is_durable: without it nothing is synced; for measurements only.

    Raises:
        InvalidArgument: the directory is missing or cannot be written.
    """

    def __init__(self, path: Path, *, is_durable: bool = True) -> None:
        self._path = path
        self._sync = os.fdatasync if is_durable else _do_nothing
        self._length = 0
        self._snapshot_length = 0
        self._number = 0
        #: Number of the first journal that the snapshot does not contain.
        self._first = 1
        #: The same of the snapshot that is written next.
        self._next_first = 1
        #: A sync failed: what the file holds is not certain any more, so it gets no further lines.
        self._is_doubtful = False
        self._journal = -1
        #: The snapshot was written by another program.
        self._is_foreign = False
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
            problem = "not writable" if path.parent.is_dir() else "not there"
            raise InvalidArgument(
                f"the store {path} cannot be written: its directory is {problem}",
                hint="choose a directory that exists and that this user may write",
            )

    def load(self, now: float) -> State:
        """Reads the snapshot, then the journals.

        Raises:
            InternalError: a file is corrupt or missing. Nothing is changed then.
        """
        state = self._load_snapshot(now)
        numbers = self._numbers()
        wanted = [number for number in numbers if number >= self._first]
        if wanted and wanted != list(range(self._first, wanted[-1] + 1)):
            raise self._corrupt(
                self._journal_path(self._first),
                "it is missing, though later ones are there; the snapshot is not the one they "
                "belong to",
            )
        for number in wanted:
            self._load_journal(state, number, now)
        if not state.created:
            state.created = int(now)
        self._number = wanted[-1] if wanted else self._first
        self._next_first = self._first
        if self._is_foreign:
            self._adopt(state)
        self._open(self._number)
        for number in numbers:
            if number < self._first:
                self._journal_path(number).unlink()
        return state

    def _adopt(self, state: State) -> None:
        """Makes a snapshot of an existing registry ours, so that journals can belong to it."""
        kept = self._path.with_name(self._path.name + ".imported")
        if not kept.exists():
            os.link(self._path, kept)
        self.fold(state.view())
        log.info("store_imported", original=str(kept), nodes=len(state.nodes))

    def _corrupt(self, path: Path, why: object) -> InternalError:
        return InternalError(
            f"the store {path} is corrupt: {why}",
            hint="restore a backup, or move the store's files away to start with an empty registry",
        )

    def _journal_path(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.journal.{number}")

    def _numbers(self) -> list[int]:
        prefix = f"{self._path.name}.journal."
        suffixes = (
            path.name.removeprefix(prefix)
            for path in self._path.parent.iterdir()
            if path.name.startswith(prefix)
        )
        return sorted(int(text) for text in suffixes if text.isascii() and text.isdecimal())

    def _load_snapshot(self, now: float) -> State:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise self._corrupt(self._path, error) from error
        self._snapshot_length = len(text)
        try:
            rows = snapshot.decode(text)
            first = rows.pop("journal", 0)
            state = State.load(rows, now)
        except ValueError as error:
            raise self._corrupt(self._path, error) from error
        self._is_foreign = first == 0
        if self._is_foreign and self._numbers():
            raise self._corrupt(self._path, "it is not ours, but there are journals beside it")
        self._first = int(first) or 1
        return state

    def _load_journal(self, state: State, number: int, now: float) -> None:
        path = self._journal_path(number)
        text = path.read_bytes()
        good = 0
        for line in text.splitlines(keepends=True):
            crc, _, body = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(body):
                if good + len(line) < len(text):
                    raise self._corrupt(path, f"line at octet {good}")
                self._set_aside(path, text, good)
                break
            try:
                for row in msgspec.json.decode(body):
                    state.apply_row(row, now)
            except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
                raise self._corrupt(path, error) from error
            good += len(line)
        self._length = good

    def _set_aside(self, path: Path, text: bytes, good: int) -> None:
        torn = path.with_name(path.name + ".torn")
        with os.fdopen(os.open(torn, _CREATE | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text[good:])
        os.truncate(path, good)
        log.warning(
            "journal_repaired",
            journal=str(path),
            dropped_octets=len(text) - good,
            kept_in=str(torn),
            reason="the last write was cut off; it was never acknowledged",
        )

    def _open(self, number: int) -> None:
        path = self._journal_path(number)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            length = os.fstat(fd).st_size
            self._sync_directory()
        except BaseException:
            os.close(fd)
            raise
        old, self._journal = self._journal, fd
        self._number, self._length, self._is_doubtful = number, length, False
        if old >= 0:
            os.close(old)

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def append(self, changes: Sequence[Change]) -> None:
        """Writes a line and syncs; on failure the journal is cut back to where it was."""
        if self._is_doubtful:
            self._open(self._number + 1)
        line = encode_line(changes)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._journal, line[written:], self._length + written)
            self._sync(self._journal)
        except OSError:
            # After a failed sync the kernel may forget that these pages were never written.
            self._is_doubtful = True
            os.ftruncate(self._journal, self._length)
            raise
        self._length += len(line)

    def wants_fold(self) -> bool:
        """Whether the journal has grown long, also compared with the snapshot."""
        return self._length >= max(FOLD_AT, self._snapshot_length * FOLD_SHARE)

    def rotate(self) -> None:
        """Starts another journal, the first that the next snapshot will not contain."""
        self._open(self._number + 1)
        self._next_first = self._number

    def fold(self, view: View) -> None:
        """Writes the snapshot beside the old one, swaps them, then removes the journals that it
        contains. A crash in between leaves journals that are recognised and skipped."""
        first = self._next_first
        temporary = self._path.with_name(self._path.name + ".tmp")
        fd = os.open(temporary, _CREATE | os.O_TRUNC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            length = self._write(fd, view, first)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(self._path)
        self._sync_directory()
        self._snapshot_length = length
        for number in range(self._first, first):
            self._journal_path(number).unlink(missing_ok=True)
        self._first = first

    def _write(self, fd: int, view: View, first: int) -> int:
        length = synced = 0
        for chunk in view.chunks(journal=first):
            done = 0
            while done < len(chunk):
                done += os.write(fd, chunk[done:])
            length += len(chunk)
            if length - synced >= _SYNC_EVERY:
                self._sync(fd)
                synced = length
        return length

    def close(self) -> None:
        """Closes the journal."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def encode_line(changes: Sequence[Change]) -> bytes:
    """The line of changes that are stored together."""
    body = msgspec.json.encode([encode_change(change) for change in changes])
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _do_nothing(fd: int) -> None:
    del fd


_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
