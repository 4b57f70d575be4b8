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

    def put(self, partials: int, tree: str, path: str, name: str) -> int:
        """Moves an unfinished file to its place in a folder, which is made. Returns how many
        folders were made.

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
        made = _make(partials, (tree, *above))
        with _walk(partials, (tree, *above)) as parent:
            os.rename(name, last, src_dir_fd=partials, dst_dir_fd=parent)
        return made

    def take_out(self, partials: int, tree: str, path: str, name: str) -> int:
        """Moves a file that is at its place already back, to be completed or checked. Returns how
        many folders were empty then and are removed.

        Raises:
            NoName: the path is not usable.
        """
        *above, last = names.safe_path(path)
        with suppress(FileNotFoundError), _walk(partials, (tree, *above)) as parent:
            if not stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                return 0
            os.rename(last, name, src_dir_fd=parent, dst_dir_fd=partials)
            return _prune(partials, (tree, *above))
        return 0

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


def _make(partials: int, parts: tuple[str, ...]) -> int:
    """Makes the folders of a path that are missing, and returns how many."""
    made = 0
    for depth, part in enumerate(parts):
        with suppress(FileExistsError), _walk(partials, parts[:depth]) as above:
            os.mkdir(part, _MODE, dir_fd=above)
            made += 1
    return made


def _prune(partials: int, parts: tuple[str, ...]) -> int:
    """Removes the folders of a path that are empty, from the last one on; returns how many."""
    removed = 0
    for depth in range(len(parts), 0, -1):
        try:
            with _walk(partials, parts[: depth - 1]) as above:
                os.rmdir(parts[depth - 1], dir_fd=above)
        except OSError:
            break
        removed += 1
    return removed


@contextmanager
def _walk(partials: int, parts: tuple[str, ...]) -> Iterator[int]:
    fd = os.dup(partials)
    try:
        for part in parts:
            below = os.open(part, _FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
