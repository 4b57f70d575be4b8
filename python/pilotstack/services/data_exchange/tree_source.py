"""The files of a folder, in an order that is the same each time."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import msgspec

from pilotstack.errors import InvalidArgument
from pilotstack.services.data_exchange.bulk import KEY_LEN
from pilotstack.services.data_exchange.source import missing

__all__ = ["TreeFile", "TreeSource"]


class TreeFile(msgspec.Struct, frozen=True):
    """A file: where it is, its path below the folder with ``/``, and its bytes."""

    path: Path
    name: str
    size: int


class TreeSource:
    """A folder to send. Links and what is no file are left out.

    Args:
        folder: its path.

    Raises:
        InvalidArgument: it is no folder, or cannot be read.
        NotFound: there is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        root = Path(folder)
        if not root.exists():
            raise missing(root, "folder")
        if not root.is_dir():
            raise InvalidArgument(f"not a folder: {root}", hint="send it as a file")
        self.name = root.resolve().name or "folder"
        self.files: list[TreeFile] = []
        #: Links, devices and the like.
        self.skipped = 0
        hashed = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape"))
        for path, status in sorted(self._walk(root), key=lambda row: row[0]):
            name = path.relative_to(root).as_posix()
            self.files.append(TreeFile(path, name, status.st_size))
            hashed.update(repr((name, status.st_size, status.st_mtime_ns)).encode())
        #: The same as long as the folder is the same.
        self.key = hashed.digest()[:KEY_LEN].hex()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def _walk(self, root: Path) -> list[tuple[Path, os.stat_result]]:
        found = []
        for above, folders, names in os.walk(root, onerror=_refuse):
            self.skipped += sum((Path(above) / each).is_symlink() for each in folders)
            for name in names:
                path = Path(above) / name
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append((path, status))
                else:
                    self.skipped += 1
        return found


def _refuse(error: OSError) -> None:
    raise InvalidArgument(
        f"cannot read {error.filename}: {error.strerror}", hint="nothing was sent of the folder"
    ) from error
