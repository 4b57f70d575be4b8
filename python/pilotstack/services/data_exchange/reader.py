"""Frames from a byte stream: headers whole, payloads in pieces, so that nothing long is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.services.data_exchange import frames
from pilotstack.services.data_exchange.frames import Frame, FrameError, Header

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteReceiveStream

__all__ = ["Reader"]

#: Bytes of one read.
READ: Final = 1 << 18


class Reader:
    """Reads frames.

    Args:
        stream: where they come from.
        idle: seconds without a byte after which the peer is taken for gone; ``None`` for none.
    """

    def __init__(self, stream: ByteReceiveStream, idle: float | None = None) -> None:
        self._stream = stream
        self._idle = idle
        self._rest = b""

    async def some(self, most: int) -> bytes:
        """Between 1 and ``most`` bytes of a frame.

        Raises:
            anyio.IncompleteRead: there are none.
            TimeoutError: the peer is silent.
        """
        try:
            return await self._next(most)
        except anyio.EndOfStream as error:
            raise anyio.IncompleteRead from error

    async def _next(self, most: int) -> bytes:
        data = self._rest
        if not data:
            with anyio.fail_after(self._idle):
                data = await self._stream.receive(READ)
        if len(data) <= most:
            self._rest = b""
            return data
        self._rest = data[most:]
        return data[:most]

    async def exactly(self, length: int) -> bytes:
        """Exactly so many bytes, which the caller bounds.

        Raises:
            anyio.IncompleteRead: the peer sent fewer.
        """
        data = b""
        while len(data) < length:
            data += await self.some(length - len(data))
        return data

    def take_rest(self) -> bytes:
        """What was read from the stream and not used yet: the caller uses it now."""
        rest, self._rest = self._rest, b""
        return rest

    async def header(self) -> Header | None:
        """The next header; ``None`` at the end.

        Raises:
            anyio.IncompleteRead: the end is inside a header.
        """
        try:
            data = await self._next(frames.HEADER_LEN)
        except anyio.EndOfStream:
            return None
        data += await self.exactly(frames.HEADER_LEN - len(data))
        return frames.parse_header(data)

    async def skip(self, length: int) -> None:
        """Drops so many bytes.

        Raises:
            anyio.IncompleteRead: the peer sent fewer.
        """
        while length:
            length -= len(await self.some(length))

    async def frame(self, limit: int) -> Frame | None:
        """The next frame whole; ``None`` at the end.

        Raises:
            FrameError: it is longer than ``limit``.
            anyio.IncompleteRead: the end is inside it.
        """
        header = await self.header()
        if header is None:
            return None
        if header.length > limit:
            raise FrameError(f"a frame of {header.length} bytes, where {limit} are expected")
        return Frame(header.type, await self.payload(header.length))

    async def payload(self, length: int, take: Callable[[int], None] | None = None) -> bytes:
        """So many bytes, which grow as they arrive.

        Args:
            take: called with the length of each piece before it is kept; what it raises ends this.

        Raises:
            anyio.IncompleteRead: the peer sent fewer.
        """
        data = bytearray()
        while len(data) < length:
            part = await self.some(length - len(data))
            if take is not None:
                take(len(part))
            data += part
        return bytes(data)
