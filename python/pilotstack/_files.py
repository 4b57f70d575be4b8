"""Files that a crash leaves whole, old or new. Nothing is written through a link, and temporary
names are unpredictable, so nobody else chooses what is written."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

#: The owner alone reads and writes.
PRIVATE: Final = 0o600
#: Bytes after which a long file is pushed to the disk, so that the syncs of others never wait
#: behind all of it.
_PUSH_EVERY: Final = 4 << 20


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory.

    Raises:
        OSError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Makes what happened to names in a directory survive a crash.

    Raises:
        OSError: it may not.
    """
    with directory(path) as fd:
        os.fsync(fd)


def open_regular(path: Path, flags: int, mode: int = PRIVATE) -> int:
    """A descriptor of a regular file with one name, which may be made; no link is followed.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file")
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_regular(path: Path, limit: int) -> bytes:
    """A regular file, or what a link to one leads to; a pipe is not waited for, and a device not
    read without end.

    Raises:
        OSError: it cannot be read, is something else, or has more than ``limit`` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            reason = os.strerror(number) if stat.S_ISDIR(mode) else "Not a regular file"
            raise OSError(number, reason, str(path))
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return octets


def write_all(fd: int, octets: bytes) -> None:
    """Writes everything.

    Raises:
        OSError: some of it may be written.
    """
    view = memoryview(octets)
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
    """Makes a file of chunks, or replaces one, and returns its length; when this returns it is
    durable, and before there is the old one, or none.

    Args:
        mode: of the file, whatever the umask is.
        is_new: only if there is none of that name.
        sync: :func:`os.fdatasync`, or a substitute.
        before: called with the descriptor before the file gets its name.

    Raises:
        FileExistsError: there is one, and ``is_new`` was asked.
        OSError: it could not be written; the file before is unharmed.
    """
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
    """Removes what :func:`replace` left of a file when it was killed. Whoever calls this knows that
    nobody else writes the file."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for entry in list(path.parent.iterdir()):
        if pattern.fullmatch(entry.name):
            with suppress(OSError):
                entry.unlink()
