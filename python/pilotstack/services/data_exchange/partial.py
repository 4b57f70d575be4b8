"""One file that arrives: hashed and written as it comes, and named when it is complete.

Everything here blocks, and runs in threads."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pilotstack import _files
from pilotstack.services.data_exchange.hasher import Hasher
from pilotstack.services.data_exchange.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future

__all__ = ["Partial"]

#: Bytes between syncs of a long file: the last sync, for which the sender waits, is short then.
PUSH_EVERY: Final = 64 << 20
_BLOCK: Final = 1 << 20
#: Buffers that one call writes at most (IOV_MAX).
_MAX_VECTOR: Final = 512


class Partial:
    """A file that is not complete.

    Args:
        fd: open for reading and writing; this object closes it.
        sender: who is charged.
        name: in the folder of unfinished files.
        size: bytes of the whole file, if known.
        offset: bytes that are there.
        charge: takes room for more bytes of a file whose size is not known.
        background: syncs there while more arrives.
    """

    def __init__(
        self,
        fd: int,
        sender: int,
        name: str,
        size: int | None,
        offset: int,
        charge: Callable[[Partial, int], None],
        background: Executor,
    ) -> None:
        self.sender = sender
        self.name = name
        self.size = size
        #: Bytes that are there, and from where on more is wanted.
        self.offset = offset
        #: What the quota counts for it.
        self.charged = 0
        #: Another connection sends the file now.
        self.is_superseded = False
        self._fd: int | None = fd
        self._hash = hashlib.sha256()
        self._charge = charge
        self._background = background
        self._lock = threading.Lock()
        self._pushed = offset
        self._push: Future[None] | None = None

    def rehash(self) -> None:
        """Hashes what is there, before more is written.

        Raises:
            OSError, Refused: it cannot be read.
        """
        position = 0
        buffer = memoryview(bytearray(_BLOCK))
        while position < self.offset:
            with self._lock:
                count = os.preadv(self._open(), [buffer], position)
            part = buffer[: min(count, self.offset - position)]
            if not part:
                raise Refused("internal", "what is there is gone")
            self._hash.update(part)
            position += len(part)

    def hashing(self) -> Hasher:
        """Hashes what is written while the next bytes are awaited; to be entered."""
        return Hasher(self._hash)

    def write(self, parts: Sequence[bytes | memoryview], hasher: Hasher | None = None) -> None:
        """Appends bytes.

        Args:
            parts: the bytes.
            hasher: hashes them, which may last until it gets the next ones; unless given, they are
                hashed at once.

        Raises:
            OSError: the disk is full, for example.
            OverQuota: there is no room for them.
            Refused: they are more than were announced, or the file is another connection's now.
        """
        length = sum(map(len, parts))
        if self.size is None:
            self._charge(self, length)
        elif self.offset + length > self.size:
            raise Refused("malformed", "more data than was announced")
        with self._lock:
            fd = self._open()
            for part in parts:
                (hasher or self._hash).update(part)
            if _is_hole(parts, length):
                # What was sparse stays so.
                os.ftruncate(fd, self.offset + length)
                self.offset += length
            else:
                for begin in range(0, len(parts), _MAX_VECTOR):
                    _write(fd, parts[begin : begin + _MAX_VECTOR], self.offset)
                    self.offset += sum(map(len, parts[begin : begin + _MAX_VECTOR]))
            self._sync_some(fd)

    def _sync_some(self, fd: int) -> None:
        if self.offset - self._pushed < PUSH_EVERY:
            return
        self._pushed = self.offset
        if self._push is not None:
            self._push.result()
        # A copy of the descriptor, because this one may be closed meanwhile.
        self._push = self._background.submit(_sync, os.dup(fd))

    def complete(self, digest: bytes | None) -> bytes:
        """Checks and syncs the whole file, and returns its hash.

        Args:
            digest: what its hash should be, if the sender told.

        Raises:
            OSError: it is not on the disk.
            Refused: it is incomplete, or its hash is another one.
        """
        with self._lock:
            fd = self._open()
            if self.size is not None and self.offset != self.size:
                text = f"incomplete: have {self.offset} of {self.size} bytes"
                raise Refused("malformed", text)
            found = self._hash.digest()
            if digest is not None and digest != found:
                raise Refused("hash_mismatch", "sha256 mismatch: the file changed on its way")
            if self._push is not None:
                self._push.result()
            os.fchmod(fd, _files.PRIVATE)
            os.fsync(fd)
        return found

    def digest(self) -> bytes:
        """The hash of what is written."""
        return self._hash.digest()

    def _open(self) -> int:
        if self._fd is None:
            raise Refused("superseded", "the file is sent by another connection now")
        return self._fd

    def close(self) -> None:
        """Closes the descriptor; may be repeated."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)
            if self._push is not None:
                with suppress(OSError):
                    self._push.result()


def _is_hole(parts: Sequence[bytes | memoryview], length: int) -> bool:
    """Whether a whole block is zero."""
    if length < _BLOCK or parts[0][:1] != b"\0" or parts[-1][-1:] != b"\0":
        return False
    # A memoryview would be compared byte by byte.
    return all(bytes(part) == bytes(len(part)) for part in parts)


def _write(fd: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    length = sum(map(len, parts))
    written = os.pwritev(fd, parts, offset)
    if written < length:
        # What is left is written without the vector: a short write is rare.
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            written = os.pwrite(fd, rest, offset + length - len(rest))
            rest = rest[written:]


def _sync(fd: int) -> None:
    try:
        # macOS has no fdatasync.
        getattr(os, "fdatasync", os.fsync)(fd)
    finally:
        os.close(fd)
