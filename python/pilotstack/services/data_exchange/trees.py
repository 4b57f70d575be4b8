"""Folders that arrive: files put below one of our own, through descriptors of each level.

Everything here blocks, and runs in threads."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from pilotstack.services.data_exchange import names

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TREE", "Trees", "size_of"]

#: How names of unfinished folders end.
TREE: Final = ".tree"
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE: Final = 0o700


def size_of(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Bytes and number of an entry and all below it: files, links and folders."""
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size, 1
    size, count = 0, 1
    with suppress(OSError), os.scandir(entry.path) as entries:
        for each in entries:
            more, files = size_of(each)
            size, count = size + more, count + files
    return size, count


class Trees:
    """Files of unfinished folders."""

    def put(self, partials: int, tree: str, path: str, name: str) -> None:
        """Moves an unfinished file to its place in a folder, which is made.

        Args:
            partials: descriptor of the folder of unfinished files.
            tree: name of the unfinished folder in it.
            path: in that folder, as the sender has it.
            name: of the file.

        Raises:
            NoName: the path is not usable.
            OSError: it cannot be moved.
        """
        *above, last = names.safe_path(path)
        with suppress(FileExistsError):
            os.mkdir(tree, _MODE, dir_fd=partials)
        with _walk(partials, (tree, *above), is_made=True) as parent:
            os.rename(name, last, src_dir_fd=partials, dst_dir_fd=parent)

    def take_out(self, partials: int, tree: str, path: str, name: str) -> None:
        """Moves a file that is at its place already back, to be completed or checked.

        Raises:
            NoName: the path is not usable.
        """
        *above, last = names.safe_path(path)
        with suppress(FileNotFoundError), _walk(partials, (tree, *above)) as parent:
            if stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                os.rename(last, name, src_dir_fd=parent, dst_dir_fd=partials)

    def sync(self, partials: int, tree: str) -> int:
        """Makes a folder's names durable, and returns the bytes in it; it is made if missing.

        Raises:
            OSError: they may be lost in a crash.
        """
        with suppress(FileExistsError):
            os.mkdir(tree, _MODE, dir_fd=partials)
        size = 0
        for _, _, files, level in os.fwalk(tree, dir_fd=partials, follow_symlinks=False):
            size += sum(os.stat(f, dir_fd=level, follow_symlinks=False).st_size for f in files)
            os.fsync(level)
        return size

    def remove(self, partials: int, tree: str) -> None:
        """Removes a folder with everything in it.

        Raises:
            OSError: something is left.
        """
        shutil.rmtree(tree, dir_fd=partials)


@contextmanager
def _walk(partials: int, parts: tuple[str, ...], *, is_made: bool = False) -> Iterator[int]:
    fd = os.dup(partials)
    try:
        for part in parts:
            if is_made:
                with suppress(FileExistsError):
                    os.mkdir(part, _MODE, dir_fd=fd)
            below = os.open(part, _FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
