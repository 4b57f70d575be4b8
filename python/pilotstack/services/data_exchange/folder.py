"""The folder where files arrive: whole ones under names of their own, unfinished ones beside them.

A file gets its name when it is complete, checked and on the disk, and never replaces another. Names
of peers are not used as paths (:mod:`.names`), and no symbolic link is followed. Everything here
blocks, and runs in threads.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pilotstack import _files
from pilotstack.services.data_exchange import names
from pilotstack.services.data_exchange.arrivals import Arrival, Arrivals
from pilotstack.services.data_exchange.partial import Partial
from pilotstack.services.data_exchange.quota import Limits, OverQuota, Quota
from pilotstack.services.data_exchange.refusals import DISK_FULL, Refused, telling
from pilotstack.services.data_exchange.trees import TREE, Trees, size_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Folder"]

PARTIALS: Final = ".partial"
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_MODE: Final = 0o700
#: Seconds for which unfinished files are kept.
KEPT: Final = 86_400.0
#: Files that cannot be resumed end with this; they are removed at the next start.
_ONCE: Final = ".once"
#: A count that takes longer than this, seconds, is not repeated for so many times as long.
_QUICK: Final = 0.02
_REST: Final = 20
#: Owner of files that nobody noted.
_NOBODY: Final = -1


class Folder:
    """A folder of files that peers sent.

    Args:
        path: made if missing, with mode 0700.
        limits: how much may be stored.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path, limits: Limits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.quota = Quota(limits or Limits())
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[str, Partial] = {}
        self._arrivals = Arrivals(path)
        self._known: dict[str, Arrival] = {}
        self._number = 0
        #: When files may be counted anew, on the monotonic clock.
        self._count_after = 0.0
        self._fds: tuple[int, int] | None = None
        self._trees = Trees()
        self._syncs = ThreadPoolExecutor(1, "file-sync")

    # Start and end

    def _opened(self) -> tuple[int, int]:
        """Descriptors of the folder and of that of unfinished files."""
        if self._fds is None:
            self.path.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):
                    os.mkdir(PARTIALS, _FOLDER_MODE, dir_fd=folder)
                partials = os.open(PARTIALS, _DIRECTORY_FLAGS, dir_fd=folder)
            except BaseException:
                os.close(folder)
                raise
            self._fds = folder, partials
            for name in os.listdir(partials):
                if name.endswith(_ONCE):
                    self._remove(name)
            self._count()
            with suppress(OSError):
                self._arrivals.rewrite(self._known)
        return self._fds

    def close(self) -> None:
        """Closes everything; unfinished files stay."""
        with self._lock:
            for partial in list(self._open.values()):
                self.keep(partial)
            if self._fds is not None:
                for fd in self._fds:
                    os.close(fd)
                self._fds = None
        self._syncs.shutdown()

    # What is there

    def _count(self) -> None:
        """Counts what is stored, which the user may have changed."""
        begin = time.monotonic()
        known, self._known = self._arrivals.load(), {}
        self.quota.forget()
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                size, files = size_of(entry)
                arrival = known.get(entry.name)
                if arrival is not None:
                    self._known[entry.name] = arrival
                self.quota.note(arrival.sender if arrival else _NOBODY, size, files)
        with os.scandir(self.path / PARTIALS) as entries:
            for entry in entries:
                if entry.name not in self._open:
                    size, files = size_of(entry)
                    self.quota.note(_owner(entry.name), size, files)
        for partial in self._open.values():
            self.quota.note(partial.sender, partial.charged)
        took = time.monotonic() - begin
        self._count_after = time.monotonic() + (_REST * took if took > _QUICK else 0)

    def _take(self, sender: int, size: int, files: int = 0) -> None:
        with self._lock:
            try:
                self.quota.take(sender, size, files)
            except OverQuota:
                # The user may have removed files since they were counted. Who is over a quota must
                # not keep the disk busy.
                if time.monotonic() < self._count_after:
                    raise
                self._count()
                self.quota.take(sender, size, files)

    def _check_disk(self, more: int) -> None:
        free = os.fstatvfs(self._opened()[0])
        if free.f_bavail * free.f_frsize < more + self.quota.limits.reserve_bytes:
            raise Refused("disk_full", DISK_FULL)

    # Files

    def begin(
        self,
        sender: int,
        *,
        key: str = "",
        size: int | None = None,
        tree: str = "",
        path: str = "",
    ) -> Partial:
        """Begins, or resumes, a file.

        Args:
            sender: the node.
            key: what the file is resumed by; without one it is not.
            size: bytes, if known.
            tree: key of the folder that it is in.
            path: in that folder.

        Raises:
            Refused: there is no room.
        """
        with telling(), self._lock:
            _, partials = self._opened()
            self._expire()
            name = f"{sender:08x}-{key}" if key else f"{sender:08x}-{secrets.token_hex(16)}{_ONCE}"
            if (other := self._open.get(name)) is not None:
                # A connection that broke may not know it yet.
                other.is_superseded = True
                self.keep(other)
            if tree:
                pruned = self._trees.take_out(partials, _tree_name(sender, tree), path, name)
                self.quota.give(sender, 0, pruned)
            there = self._size(name)
            if there is None:
                self._make_room(sender)
            # What is longer than the file is not the start of it.
            offset = there if there is not None and (size is None or there <= size) else 0
            more = (size or offset) - (there or 0)
            self._check_disk(more)
            self._take(sender, more, int(there is None))
            try:
                fd = self._open_partial(name, offset)
            except BaseException:
                self.quota.give(sender, more, int(there is None))
                raise
            partial = Partial(fd, sender, name, size, offset, self._charge, self._syncs)
            partial.charged = size or offset
            self._open[name] = partial
            return partial

    def _open_partial(self, name: str, offset: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, _files.PRIVATE, dir_fd=self._opened()[1])
        try:
            os.ftruncate(fd, offset)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _charge(self, partial: Partial, length: int) -> None:
        """Takes room for a file whose size is not known."""
        self._check_disk(length)
        self._take(partial.sender, length)
        partial.charged += length

    def _size(self, name: str) -> int | None:
        """Bytes of an unfinished file; ``None`` if there is none."""
        try:
            status = os.stat(name, dir_fd=self._opened()[1], follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{name} is not a file")
        return status.st_size

    def finish(self, partial: Partial, name: str, address: str, digest: bytes | None) -> Arrival:
        """Gives a whole file its name.

        Args:
            name: safe, as of :func:`.names.safe_name`.
            address: of the sender, for the list.
            digest: what its hash should be.

        Raises:
            Refused: it is not whole, or cannot be stored; it is removed then.
        """
        with self._finishing(partial), telling():
            found = partial.complete(digest)
            with self._lock:
                stored = self._link(partial.name, name)
                self._close(partial)
                return self._noted(
                    Arrival(
                        stored,
                        partial.sender,
                        address,
                        partial.offset,
                        found.hex(),
                        self._clock(),
                    )
                )

    def finish_in_tree(self, partial: Partial, tree: str, path: str, digest: bytes | None) -> None:
        """Puts a whole file into a folder that arrives.

        Raises:
            Refused: as of :meth:`finish`.
        """
        with self._finishing(partial), telling():
            partial.complete(digest)
            with self._lock:
                self._put(partial, _tree_name(partial.sender, tree), path)
                self._close(partial)

    def _put(self, partial: Partial, tree: str, path: str) -> None:
        """Moves a file into a folder that arrives. Folders count as files, or they would be without
        bound."""
        partials = self._opened()[1]
        if not self._exists(tree):
            self._make_room_for_tree(partial.sender)
        most = path.count("/") + path.count("\\") + 1
        self._take(partial.sender, 0, most)
        made = 0
        try:
            made = self._trees.put(partials, tree, path, partial.name)
        finally:
            self.quota.give(partial.sender, 0, most - made)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._opened()[1], follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _finishing(self, partial: Partial) -> _Finishing:
        return _Finishing(self, partial)

    def close_tree(self, sender: int, tree: str, name: str, address: str) -> Arrival:
        """Gives a whole folder its name; one without files is made.

        Raises:
            Refused: it cannot be stored.
        """
        with telling(), self._lock:
            folder, partials = self._opened()
            unfinished = _tree_name(sender, tree)
            if not self._exists(unfinished):
                # A folder counts as a file, or empty ones would be without bound.
                self._take(sender, 0, 1)
            size = self._trees.sync(partials, unfinished)
            while True:
                stored = self._next_name(name)
                with suppress(FileExistsError):
                    # An empty folder of ours may be replaced, and nothing else is.
                    os.mkdir(stored, _FOLDER_MODE, dir_fd=folder)
                    break
            os.rename(unfinished, stored, src_dir_fd=partials, dst_dir_fd=folder)
            os.fsync(folder)
            return self._noted(Arrival(stored, sender, address, size, at=self._clock()))

    def _noted(self, arrival: Arrival) -> Arrival:
        self._known[arrival.name] = arrival
        with suppress(OSError):
            self._arrivals.add(arrival)
        return arrival

    def _next_name(self, name: str) -> str:
        self._number += 1
        return names.stored_name(name, self._clock(), self._number)

    def _link(self, unfinished: str, name: str) -> str:
        folder, partials = self._opened()
        while True:
            stored = self._next_name(name)
            with suppress(FileExistsError):
                try:
                    os.link(unfinished, stored, src_dir_fd=partials, dst_dir_fd=folder)
                    os.unlink(unfinished, dir_fd=partials)
                except PermissionError:
                    # This file system has no links. An empty file of ours may be replaced.
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(stored, flags, _files.PRIVATE, dir_fd=folder))
                    os.rename(unfinished, stored, src_dir_fd=partials, dst_dir_fd=folder)
                os.fsync(folder)
                return stored

    # Unfinished files

    def keep(self, partial: Partial) -> None:
        """Closes an unfinished file. It stays for a while, if it can be resumed."""
        if partial.name.endswith(_ONCE):
            self.drop(partial)
            return
        with self._lock:
            if self._close(partial):
                self.quota.give(partial.sender, max(0, partial.charged - partial.offset))

    def drop(self, partial: Partial) -> None:
        """Removes an unfinished file."""
        with self._lock:
            if self._close(partial):
                with suppress(OSError):
                    os.unlink(partial.name, dir_fd=self._opened()[1])
                self.quota.give(partial.sender, partial.charged, 1)

    def _close(self, partial: Partial) -> bool:
        partial.close()
        if self._open.get(partial.name) is not partial:
            return False
        del self._open[partial.name]
        return True

    def _remove(self, name: str) -> None:
        """Removes an unfinished file or folder that nobody sends."""
        assert self._fds is not None
        with suppress(OSError):
            if name.endswith(TREE):
                self._trees.remove(self._fds[1], name)
            else:
                os.unlink(name, dir_fd=self._fds[1])

    def _expire(self) -> None:
        partials, now = self._opened()[1], self._clock()
        for name in os.listdir(partials):
            if name in self._open:
                continue
            with suppress(OSError):
                status = os.stat(name, dir_fd=partials, follow_symlinks=False)
                if not -KEPT < now - status.st_mtime < KEPT:
                    self._remove(name)

    def _make_room(self, sender: int) -> None:
        """Removes the oldest unfinished file of a sender that has too many of them."""
        partials, limit = self._opened()[1], self.quota.limits.sender_partials
        own = [name for name in os.listdir(partials) if _owner(name) == sender]
        own = [name for name in own if not name.endswith(TREE)]
        if len(own) < limit:
            return
        idle = [name for name in own if name not in self._open]
        if not idle:
            raise Refused("busy", "you send too many files at once")
        oldest = min(idle, key=lambda name: os.stat(name, dir_fd=partials).st_mtime)
        self.quota.give(sender, self._size(oldest) or 0, 1)
        self._remove(oldest)

    def _make_room_for_tree(self, sender: int) -> None:
        """Removes the oldest unfinished folder of a sender that has too many of them."""
        with os.scandir(self.path / PARTIALS) as entries:
            own = [each for each in entries if each.name.endswith(TREE)]
        own = [each for each in own if _owner(each.name) == sender]
        if len(own) >= self.quota.limits.sender_partials:
            oldest = min(own, key=lambda each: each.stat(follow_symlinks=False).st_mtime)
            self.quota.give(sender, *size_of(oldest))
            self._remove(oldest.name)


class _Finishing:
    """A file that cannot be finished is removed: what is there is of no use."""

    def __init__(self, folder: Folder, partial: Partial) -> None:
        self._folder = folder
        self._partial = partial

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._folder.drop(self._partial)


def _tree_name(sender: int, tree: str) -> str:
    return f"{sender:08x}-{tree}{TREE}"


def _owner(name: str) -> int:
    try:
        return int(name[:8], 16)
    except ValueError:
        return _NOBODY
