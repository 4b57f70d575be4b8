"""Atomic and durable file writes: after a crash a file has its old content or its new one.

No symbolic link is followed and temporary names are random, so that another user of the directory
cannot redirect a write."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

#: Mode of a file that only its owner reads and writes.
PRIVATE: Final = 0o600
#: Bytes between syncs of a long file, so that a sync of another file never waits for all of it.
_PUSH_EVERY: Final = 4 << 20


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """Opens a directory, for as long as the context lasts.

    Raises:
        OSError: it does not exist or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Makes created, renamed and removed names in a directory durable.

    Raises:
        OSError: the sync failed; they may be lost in a crash.
    """
    with directory(path) as fd:
        os.fsync(fd)


def open_regular(path: Path, flags: int, mode: int = PRIVATE) -> int:
    """Opens a regular file without following a symbolic link, and returns its descriptor.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file; symbolic links are followed. A pipe does not block this, and a
    device is not read.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than ``limit`` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            reason = os.strerror(number) if stat.S_ISDIR(mode) else "Not a regular file"
            raise OSError(number, reason, str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def write_all(fd: int, data: bytes) -> None:
    """Writes all of the data.

    Raises:
        OSError: a part of it may be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace(
    path: Path,
    chunks: Iterable[bytes],
    *,
    mode: int = PRIVATE,
    is_new: bool = False,
    sync: Callable[[int], object] | None = None,
    before: Callable[[int], object] | None = None,
) -> int:
    """Writes a file, or replaces one, and returns its length. When this returns the new content is
    durable; until then the old file, if there was one, is unchanged.

    Args:
        mode: of the file, whatever the umask is.
        is_new: fail if the file exists.
        sync: called between chunks of a long file; :func:`os.fsync` unless given.
        before: called with the descriptor before the file gets its name.

    Raises:
        FileExistsError: the file exists, and ``is_new`` is set.
        OSError: the file could not be written; the old one is unchanged.
    """
    # It imports much, and those who only read have no use for it.
    import secrets

    sync = sync or os.fsync
    with directory(path.parent) as parent:
        temporary = f".{path.name}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, mode, dir_fd=parent)
        try:
            try:
                os.fchmod(fd, mode)
                length = _write_chunks(fd, chunks, sync)
                os.fsync(fd)
                if before is not None:
                    before(fd)
            finally:
                os.close(fd)
            if is_new:
                os.link(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                os.replace(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
        os.fsync(parent)
    return length


def _write_chunks(fd: int, chunks: Iterable[bytes], sync: Callable[[int], object]) -> int:
    length = pushed = 0
    for chunk in chunks:
        write_all(fd, chunk)
        length += len(chunk)
        if length - pushed >= _PUSH_EVERY:
            sync(fd)
            pushed = length
    return length


def sweep(path: Path) -> None:
    """Removes temporary files that :func:`replace` left when the process was killed. No other
    process may write the file meanwhile."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for entry in list(path.parent.iterdir()):
        if pattern.fullmatch(entry.name):
            with suppress(OSError):
                entry.unlink()
