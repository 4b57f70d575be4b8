"""A file to send: read and hashed in a thread, one block ahead of the network."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread

from pilotstack.errors import InvalidArgument, NotFound, PermissionDenied
from pilotstack.services.data_exchange.bulk import BLOCK, KEY_LEN
from pilotstack.services.data_exchange.hasher import Hasher

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future
    from types import TracebackType

__all__ = ["Source", "missing"]

#: Blocks in memory: one is sent, one is read.
_BUFFERS: Final = 2


class Source:
    """A file, or what a descriptor gives until its end; to be entered.

    Args:
        file: a path, or a descriptor, which is not closed.
        name: what the receiver calls it; the path's last component unless given.

    Raises:
        InvalidArgument: it is no file, or has no name.
        NotFound: there is none.
        PermissionDenied: it may not be read.
    """

    def __init__(self, file: str | os.PathLike[str] | int, name: str | None = None) -> None:
        if isinstance(file, int):
            self._fd, self._is_owned = file, False
            self.name = name or ""
        else:
            path = Path(file)
            self._fd, self._is_owned = _open(path), True
            self.name = name or path.name
        status = os.fstat(self._fd)
        if stat.S_ISDIR(status.st_mode):
            self._close()
            raise InvalidArgument("a folder is not a file", hint="send it as a folder")
        if not self.name:
            self._close()
            raise InvalidArgument("the file needs a name", hint="give one with name")
        #: Bytes; ``None`` if it is a pipe.
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, self.name)
        text = repr(known) if self.size is not None else os.urandom(32).hex()
        #: The same as long as the file is the same.
        self.key = hashlib.sha256(text.encode()).digest()[:KEY_LEN].hex()
        self._thread = ThreadPoolExecutor(1, "file-reader")
        self._buffers = [memoryview(bytearray(BLOCK)) for _ in range(_BUFFERS)]
        self._turn = 0
        self._next: Future[memoryview] | None = None
        self._hash = hashlib.sha256()
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._close()

    def _close(self) -> None:
        if self._is_owned:
            os.close(self._fd)

    @property
    def sha256(self) -> bytes:
        """Hash of what was read."""
        return self._hash.digest()

    async def restart(self, offset: int = 0) -> None:
        """Reads and hashes up to ``offset``, from the beginning; blocks from there on come next.

        Raises:
            InvalidArgument: it is a pipe, which was read already.
        """
        await self._settle()
        if self._offset:
            if self.size is None:
                raise InvalidArgument(
                    "what came through a pipe cannot be sent again", hint="send it as a file"
                )
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._hash, self._offset = hashlib.sha256(), 0
        await anyio.to_thread.run_sync(self._read_over, offset)

    def _read_over(self, offset: int) -> None:
        while self._offset < offset and self._read(offset - self._offset):
            pass

    async def block(self) -> memoryview:
        """The next block, empty at the end. It is valid until the block after the next is asked
        for.

        Raises:
            OSError: the file cannot be read.
        """
        running = self._next or self._thread.submit(self._read, BLOCK)
        if not running.done():
            with anyio.CancelScope(shield=self.size is not None):
                await anyio.to_thread.run_sync(_wait, running, abandon_on_cancel=True)
        self._next = None
        found = running.result()
        if found:
            self._next = self._thread.submit(self._read, BLOCK)
        return found

    def blocks(self) -> Generator[memoryview]:
        """All blocks, for a thread that sends them; it blocks. Each is hashed while it is used, and
        valid until the next one is asked for."""
        with Hasher(self._hash) as hasher:
            while block := self._fill(BLOCK):
                hasher.update(block)
                yield block

    async def _settle(self) -> None:
        if self._next is not None:
            running, self._next = self._next, None
            await anyio.to_thread.run_sync(_wait, running)

    def _read(self, most: int) -> memoryview:
        found = self._fill(most)
        self._hash.update(found)
        return found

    def _fill(self, most: int) -> memoryview:
        self._turn = (self._turn + 1) % _BUFFERS
        buffer = self._buffers[self._turn][: min(most, BLOCK)]
        count = os.readv(self._fd, [buffer])
        self._offset += count
        return buffer[:count]


def _wait(running: Future[memoryview]) -> None:
    running.exception()


def missing(path: Path, kind: str = "file") -> NotFound:
    """The error for a path where nothing is."""
    hint = "check the spelling" if path.is_absolute() else f"the path is taken from {Path.cwd()}"
    return NotFound(f"{kind} not found: {path}", hint=hint)


def _open(path: Path) -> int:
    try:
        # O_NONBLOCK: opening a pipe without a writer must not block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise missing(path) from error
    except PermissionError as error:
        raise PermissionDenied(
            f"the file may not be read: {path}", hint=f"see: ls -l {path}"
        ) from error
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", hint="send a file, a folder or a pipe"
        ) from error
    os.set_blocking(fd, True)
    return fd
