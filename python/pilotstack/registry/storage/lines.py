"""The format of journal lines, and telling an unfinished line at the end from a damaged one.

A line is ``SUM LENGTHCHECK BODY``: the CRC-32 of everything after its first blank, the length of
the body and the CRC-32 of that length, each as eight hexadecimal digits. Since the length has its
own checksum, a line that ends early was cut off while it was written; any other line that fails its
checks was damaged later. Journals of earlier versions have ``SUM BODY`` and are read as well.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUM: Final = 9
_HEAD: Final = 26
_IS_HEAD: Final = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8})([0-9a-f]{8}) ").fullmatch
#: Bytes that a disk writes atomically. Parts of a file that were never written read as zeros, which
#: no line contains.
_SECTOR: Final = 512
#: Fewer zeros than this count as damage.
_FEW: Final = 8


class Damaged(ValueError):
    """A complete line was damaged.

    Attributes:
        offset: of its first byte.
    """

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"the line at byte {offset} {why}")
        self.offset = offset


def encode(body: bytes) -> bytes:
    """The line of a body, which must not have line breaks."""
    length = b"%08x" % len(body)
    inner = b"%b%08x %b" % (length, zlib.crc32(length), body)
    return b"%08x %b\n" % (zlib.crc32(inner), inner)


class Reader:
    """Reads the lines of a journal.

    Args:
        text: its content.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        #: End of the lines that were read; anything behind was never finished.
        self.end = 0

    def __iter__(self) -> Iterator[bytes]:
        """The bodies.

        Raises:
            Damaged: a line was damaged.
        """
        while self.end < len(self._text):
            found = self._next()
            if found is None:
                return
            body, end = found
            yield body
            self.end = end

    def _next(self) -> tuple[bytes, int] | None:
        text, start = self._text, self.end
        if text[start + _SUM : start + _SUM + 1] == b"[":
            return self._next_of_old()
        head = _IS_HEAD(text[start : start + _HEAD])
        if len(text) - start < _HEAD and b"\n" not in text[start:]:
            return None
        if head is None or int(head[3], 16) != zlib.crc32(head[2]):
            return self._unwritten("does not begin as lines do")
        end = start + _HEAD + int(head[2], 16)
        if end >= len(text):
            return None
        if text[end : end + 1] != b"\n":
            return self._unwritten("does not end where it says")
        if int(head[1], 16) != zlib.crc32(text[start + _SUM : end]):
            return self._unwritten("has a wrong checksum")
        return text[start + _HEAD : end], end + 1

    def _next_of_old(self) -> tuple[bytes, int] | None:
        text, start = self._text, self.end
        end = text.find(b"\n", start)
        shown, body = text[start : start + _SUM], text[start + _SUM : end if end >= 0 else -1]
        is_right = shown == b"%08x " % zlib.crc32(body)
        if end >= 0 and is_right:
            return body, end + 1
        if end < 0 and not is_right:
            return None
        return self._unwritten("has a wrong checksum")

    def _unwritten(self, why: str) -> tuple[bytes, int] | None:
        """Accepts a bad line if a part of the last write never reached the disk.

        Raises:
            Damaged: all of it did.
        """
        if not self._has_unwritten_sector():
            raise Damaged(self.end, why)
        return None

    def _has_unwritten_sector(self) -> bool:
        at = self.end
        while at < len(self._text):
            end = min(at - at % _SECTOR + _SECTOR, len(self._text))
            if end - at >= _FEW and not any(self._text[at:end]):
                return True
            at = end
        return False
