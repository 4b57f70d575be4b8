"""The file store: a journal of changes, folded into an atomic snapshot.

``FILE`` is the JSON snapshot of docs/reference/registry-files.md, ``FILE.journal.N`` the changes
since, lines of :mod:`~pilotstack.registry.storage.lines`: JSON arrays of changes that were stored
together. The snapshot names the first journal that it does not contain.

A batch is one line, so it is stored as a whole or not at all. An unfinished line was never
acknowledged and is moved to another file. Any other damage stops the start, so that nothing is
overwritten.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _events, _files
from pilotstack._figures import Durations
from pilotstack.errors import AlreadyExists, InternalError, InvalidArgument
from pilotstack.registry.model.rows import encode_change
from pilotstack.registry.model.state import State
from pilotstack.registry.storage import lines, snapshot
from pilotstack.registry.storage.lock import StoreLock
from pilotstack.registry.storage.snapshot import View
from pilotstack.registry.storage.store import (
    OutcomeUnknown,
    StoreClosed,
    StoreRemoved,
    StoreReplaced,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.model.rows import Change

log = _events.get_logger(__name__)

#: Bytes of journal after which it is folded into the snapshot.
FOLD_AT: Final = 16 << 20
#: A journal shorter than this fraction of the snapshot is not folded yet: the cost of a fold grows
#: with the snapshot, and so must the number of changes that share it.
FOLD_SHARE: Final = 0.5


class FileStore:
    """A snapshot file and its journals.

    Args:
        path: the snapshot.
        is_durable: sync writes; ``False`` is for benchmarks only.

    Raises:
        InvalidArgument: the directory is missing or cannot be written.
    """

    def __init__(self, path: Path, *, is_durable: bool = True) -> None:
        self._lock = StoreLock(path)
        self._path = self._lock.path
        self._sync = os.fdatasync if is_durable else _do_nothing
        #: How long each append waited for the disk.
        self.syncs = Durations()
        self._length = 0
        self._snapshot_length = 0
        self._number = 0
        #: Number of the first journal that the snapshot does not contain.
        self._first = 1
        #: The same for the next snapshot.
        self._next_first = 1
        #: A sync failed, so the file's content is uncertain and it gets no further lines.
        self._is_doubtful = False
        self._journal = -1
        #: The snapshot was written by another program.
        self._is_foreign = False
        #: Files were removed and have not been written again.
        self._is_removed = False
        #: The error that closed the store.
        self._closed: OSError | None = None

    def lock(self) -> None:
        """Takes the store for this process; :meth:`load` does, too.

        Raises:
            AlreadyExists: another registry has it.
            InvalidArgument: it cannot be locked.
        """
        self._lock.lock()

    def load(self, now: float) -> State:
        """Takes the store, reads the snapshot, then the journals.

        Raises:
            AlreadyExists: another registry has the store.
            InternalError: a file is corrupt or missing. Nothing is changed then.
        """
        self._lock.lock()
        try:
            return self._load(now)
        except BaseException:
            self.close()
            raise

    def _load(self, now: float) -> State:
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
        self._sweep()
        if self._is_foreign:
            self._adopt(state)
        self._open(self._number)
        for number in numbers:
            if number < self._first:
                self._journal_path(number).unlink()
        return state

    def _sweep(self) -> None:
        """Removes unfinished snapshots, of earlier versions as well."""
        _files.sweep(self._path)
        old = self._path.with_name(f"{self._path.name}.tmp")
        with suppress(OSError):
            if stat.S_ISREG(old.lstat().st_mode):
                old.unlink()

    def _adopt(self, state: State) -> None:
        """Rewrites the snapshot of an existing registry as ours, so that journals can follow it."""
        kept = self._path.with_name(self._path.name + ".imported")
        if not kept.exists():
            os.link(self._path, kept, follow_symlinks=False)
        self.fold(View(state))
        log.info("store_imported", original=str(kept), nodes=len(state.nodes))

    def _corrupt(self, path: Path, why: object) -> InternalError:
        hint = (
            "restore a backup of all its files, or move the store's files away to start with an "
            "empty registry"
        )
        if isinstance(why, lines.Damaged):
            hint += (
                f"; to go on without this line and all after it, cut the file there: "
                f"truncate -s {why.offset} {path}"
            )
        return InternalError(f"the store {path} is corrupt: {why}", hint=hint)

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
            text = self._read(self._path, is_snapshot=True)
        except FileNotFoundError:
            return State()
        self._snapshot_length = len(text)
        try:
            rows = snapshot.decode(text)
            first = rows.pop("journal", 0)
            if not isinstance(first, int):
                raise ValueError("its journal has no number")
            state = snapshot.load(rows, now)
        except ValueError as error:
            raise self._corrupt(self._path, error) from error
        self._is_foreign = first == 0
        if self._is_foreign and self._numbers():
            raise self._corrupt(self._path, "it is not ours, but there are journals beside it")
        self._first = first or 1
        return state

    def _read(self, path: Path, *, is_snapshot: bool) -> bytes:
        try:
            # Journals are opened for writing: a lock on a file of another user says nothing.
            fd = _files.open_regular(path, os.O_RDONLY if is_snapshot else os.O_RDWR)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unusable(path, error) from error
        try:
            with open(fd, "rb") as file:
                self._lock.hold(path, file.fileno())
                return file.read()
        except AlreadyExists:
            raise
        except OSError as error:
            raise self._corrupt(path, error) from error

    def _unusable(self, path: Path, error: OSError) -> InternalError:
        if error.errno == errno.ELOOP:
            return self._corrupt(path, "it is a symbolic link, which is not followed")
        return self._corrupt(path, error.strerror or error)

    def _load_journal(self, state: State, number: int, now: float) -> None:
        path = self._journal_path(number)
        text = self._read(path, is_snapshot=False)
        reader = lines.Reader(text)
        try:
            for body in reader:
                try:
                    for row in msgspec.json.decode(body):
                        state.apply_row(row, now)
                except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
                    raise lines.Damaged(reader.end, f"cannot be read: {error}") from error
        except lines.Damaged as error:
            raise self._corrupt(path, error) from error
        if reader.end < len(text):
            self._set_aside(path, text, reader.end)
        self._length = reader.end

    def _set_aside(self, path: Path, text: bytes, good: int) -> None:
        torn = path.with_name(path.name + ".torn")
        _files.replace(torn, [text[good:]])
        with open(_files.open_regular(path, os.O_RDWR), "r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
        log.warning(
            "journal_repaired",
            journal=str(path),
            dropped_bytes=len(text) - good,
            kept_in=str(torn),
            reason="the last write was cut off; it was never acknowledged",
        )

    def _open(self, number: int, *, flags: int = 0) -> None:
        path = self._journal_path(number)
        try:
            fd = _files.open_regular(path, os.O_RDWR | os.O_CREAT | flags)
        except FileExistsError as error:
            raise self._lock.replaced(path) from error
        try:
            os.fchmod(fd, _files.PRIVATE)
            length = os.fstat(fd).st_size
            _files.sync_directory(self._path.parent)
            self._lock.hold(path, fd)
        except BaseException:
            os.close(fd)
            raise
        old, self._journal = self._journal, fd
        self._number, self._length, self._is_doubtful = number, length, False
        if old >= 0:
            os.close(old)

    def append(self, changes: Sequence[Change]) -> None:
        """Writes a line and syncs; on failure the journal is cut back to where it was.

        Raises:
            StoreRemoved: a file is gone; :meth:`reclaim` writes everything again.
            OutcomeUnknown: it could not be cut back. The store is closed.
            OSError: nothing of it is kept.
        """
        self._refuse_if_stopped()
        if self._is_doubtful:
            self._begin()
        line = encode_line(changes)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._journal, line[written:], self._length + written)
            started = time.perf_counter()
            self._sync(self._journal)
            self.syncs.add(time.perf_counter() - started)
            # What is in a file without a name is gone with this process. One look afterwards is
            # enough: a write into a file that is not the store's any more harms nobody.
            self.check()
        except OSError as error:
            # After a failed sync the kernel may forget that these pages were never written.
            self._is_doubtful = True
            self._roll_back(error)
            raise
        self._length += len(line)

    def _roll_back(self, cause: OSError) -> None:
        try:
            os.ftruncate(self._journal, self._length)
        except OSError as error:
            self._closed = StoreClosed(
                error.errno, "the store is closed: a failed write could not be taken back"
            )
            log.critical("store_closed", journal=str(self._journal_path(self._number)))
            raise OutcomeUnknown(*self._closed.args) from cause

    def _begin(self) -> None:
        """Starts another journal. A file of that name would not be ours."""
        if self._is_doubtful:
            # Makes the removal of the last line durable, too.
            self._sync(self._journal)
        self._open(self._number + 1, flags=os.O_EXCL)

    def check(self) -> None:
        """Checks that the files are there and ours.

        Raises:
            StoreRemoved: one was removed.
            OSError: the store is closed.
        """
        self._refuse_if_closed()
        try:
            self._lock.check()
        except StoreReplaced as error:
            self._closed = error
            raise
        except StoreRemoved:
            self._is_removed = True
            raise
        self._refuse_if_stopped()

    def _refuse_if_stopped(self) -> None:
        self._refuse_if_closed()
        if self._is_removed:
            raise StoreRemoved(errno.ENOENT, "the store's files are not written again yet")

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise StoreClosed(*self._closed.args)

    def reclaim(self, view: View) -> None:
        """Writes everything again after the files were removed.

        Raises:
            OSError: it cannot be written.
        """
        try:
            self._lock.relock()
        except AlreadyExists as error:
            self._closed = self._lock.replaced(self._path)
            raise self._closed from error
        except InvalidArgument as error:
            # The directory was removed as well; it may come back.
            raise OSError(getattr(error.__cause__, "errno", None) or 0, str(error)) from error
        for path in map(self._journal_path, self._numbers()):
            if not self._lock.expects(path):
                self._closed = self._lock.replaced(path)
                raise self._closed
        # The snapshot first: a journal is useless without it.
        self._next_first = self._number + 1
        self.fold(view)
        self._begin()
        self._is_removed = False
        log.error("store_rewritten", store=str(self._path), reason="its files had been removed")

    def keep_aside(self, view: View, label: str) -> Path:
        """Writes a snapshot beside the store for people to inspect; no program reads it.

        Raises:
            OSError: it cannot be written.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for count in range(100):
            name = f"{self._path.name}.{label}-{moment}{f'-{count}' if count else ''}"
            path = self._path.with_name(name)
            with suppress(FileExistsError):
                _files.replace(path, view.chunks(journal=0), is_new=True)
                return path
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path))

    def wants_fold(self) -> bool:
        """Whether the journal is long, in bytes and compared with the snapshot."""
        return self._length >= max(FOLD_AT, self._snapshot_length * FOLD_SHARE)

    def rotate(self) -> None:
        """Starts the first journal that the next snapshot will not contain."""
        self.check()
        self._begin()
        self._next_first = self._number

    def fold(self, view: View) -> None:
        """Writes a snapshot, replaces the old one atomically, then removes the journals that it
        contains. A crash in between leaves journals that the next start skips."""
        self._refuse_if_closed()
        first = self._next_first
        fds: list[int] = []

        def before(fd: int) -> None:
            self._lock.announce(fd)
            fds.append(os.dup(fd))

        try:
            length = _files.replace(
                self._path, view.chunks(journal=first), sync=self._sync, before=before
            )
            self._lock.hold(self._path, fds[0])
        finally:
            for fd in fds:
                os.close(fd)
        self._snapshot_length = length
        for number in range(self._first, first):
            path = self._journal_path(number)
            self._lock.forget(path)
            path.unlink(missing_ok=True)
        self._first = first

    def close(self) -> None:
        """Closes the journal and lets another registry have the store."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        self._lock.release()


def encode_line(changes: Sequence[Change]) -> bytes:
    """The line of changes that are stored together."""
    return lines.encode(msgspec.json.encode([encode_change(change) for change in changes]))


def _do_nothing(fd: int) -> None:
    del fd
