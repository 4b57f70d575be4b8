"""Exclusive use of a store's files: one registry locks them, and notices when others have removed
or replaced them."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pilotstack import _files
from pilotstack.errors import AlreadyExists, InvalidArgument
from pilotstack.registry.storage.store import StoreRemoved, StoreReplaced

if TYPE_CHECKING:
    from pathlib import Path

_Identity = tuple[int, int]
_LINKS: Final = 40


class StoreLock:
    """Locks a store for this process.

    Args:
        path: the snapshot, which need not be there.

    Raises:
        InvalidArgument: the directory is missing or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        directory = path.parent.resolve()
        if not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
            problem = "not writable" if directory.is_dir() else "not there"
            raise InvalidArgument(
                f"the store {path} cannot be written: its directory is {problem}",
                hint="choose a directory that exists and that this user may write",
            )
        self.path = directory / path.name
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        self._lock = -1
        #: Locked files by path: descriptor, and the identity that is expected there.
        self._held: dict[Path, int] = {}
        self._expected: dict[Path, _Identity] = {}
        self._incoming: _Identity | None = None

    def lock(self) -> None:
        """Locks the store until :meth:`release` or the end of the process.

        Raises:
            AlreadyExists: another registry has it.
            InvalidArgument: it cannot be locked, or is a link.
        """
        if self._lock >= 0:
            return
        target = self._target()
        if target != self.path:
            # If the target is in use, say so; otherwise the link would be replaced by a file.
            StoreLock(target).try_out()
            raise InvalidArgument(
                f"the store {self.path} is a symbolic link", hint=f"name the file itself: {target}"
            )
        while self._lock < 0:
            self._lock = self._lock_once()

    def _target(self) -> Path:
        path = self.path
        for _ in range(_LINKS):
            if not path.is_symlink():
                break
            path = path.parent / path.readlink()
            path = path.parent.resolve() / path.name
        return path

    def try_out(self) -> None:
        """Checks that no registry has the store.

        Raises:
            AlreadyExists: another registry has it.
        """
        try:
            self.lock()
        finally:
            self.release()

    def _lock_once(self) -> int:
        try:
            fd = _files.open_regular(self._lock_path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InvalidArgument(
                f"cannot lock the store with {self._lock_path}: {error.strerror or error}",
                hint="remove that file if no registry runs, and check its directory",
            ) from error
        try:
            self._take(fd)
            # The previous owner may have removed the file just after we opened it.
            if self._identity(self._lock_path) == _identity_of(os.fstat(fd)):
                kept, fd = fd, -1
                return kept
        finally:
            if fd >= 0:
                os.close(fd)
        return -1

    def _take(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExists(
                f"another registry has the store {self.path}",
                hint="stop it first, or give this one a store of its own with --store",
            ) from error
        except OSError as error:
            raise InvalidArgument(
                f"cannot lock the store {self.path}: {error.strerror}",
                hint="choose a file system with locks",
            ) from error

    def hold(self, path: Path, fd: int) -> None:
        """Locks a file of the store, which may have other names as well, and expects it under its
        name from now on. The descriptor is copied.

        Raises:
            AlreadyExists: another registry has it.
        """
        if path in self._held and self._expected[path] == _identity_of(os.fstat(fd)):
            return
        copy = os.dup(fd)
        try:
            self._take(copy)
        except BaseException:
            os.close(copy)
            raise
        self.forget(path)
        self._held[path] = copy
        self._expected[path] = _identity_of(os.fstat(copy))

    def announce(self, fd: int) -> None:
        """Accepts this file as the snapshot from now on, too."""
        self._incoming = _identity_of(os.fstat(fd))

    def forget(self, path: Path) -> None:
        """Stops expecting a file."""
        self._expected.pop(path, None)
        held = self._held.pop(path, -1)
        if held >= 0:
            os.close(held)

    def expects(self, path: Path) -> bool:
        """Whether a file belongs to the store."""
        return path in self._expected

    def forget_all(self) -> None:
        """Stops expecting any file."""
        for path in list(self._held):
            self.forget(path)
        self._incoming = None

    def check(self) -> None:
        """Checks that every file is the one that was written.

        Raises:
            StoreRemoved: one was removed.
            StoreReplaced: one was replaced.
        """
        missing = []
        for path, expected in list(self._expected.items()):
            found = self._identity(path)
            if found is None:
                missing.append(path)
            elif found != expected and not (path == self.path and found == self._incoming):
                raise self.replaced(path)
        if self.path not in self._expected and self._identity(self.path) not in (
            None,
            self._incoming,
            self._expected.get(self.path),
        ):
            raise self.replaced(self.path)
        if missing:
            raise StoreRemoved(
                errno.ENOENT, "the store's file was removed while the registry ran", str(missing[0])
            )

    @staticmethod
    def replaced(path: Path) -> StoreReplaced:
        """The error for a file that is not ours."""
        return StoreReplaced(
            errno.ESTALE, "the store's file was replaced while the registry ran", str(path)
        )

    @staticmethod
    def _identity(path: Path) -> _Identity | None:
        try:
            return _identity_of(os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def relock(self) -> None:
        """Locks the store again if the lock file was removed.

        Raises:
            AlreadyExists: another registry has it now.
            InvalidArgument: it cannot be locked.
        """
        if self._lock >= 0 and self._identity(self._lock_path) == _identity_of(
            os.fstat(self._lock)
        ):
            return
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.lock()

    def release(self) -> None:
        """Unlocks the store."""
        self.forget_all()
        if self._lock >= 0:
            if self._identity(self._lock_path) == _identity_of(os.fstat(self._lock)):
                with suppress(OSError):
                    self._lock_path.unlink()
            os.close(self._lock)
            self._lock = -1


def _identity_of(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
