"""Connections in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream


class Pipe(ByteStream):
    """The served end of a connection; what is written waits until it is read from ``outgoing``."""

    def __init__(self) -> None:
        self.incoming: MemoryObjectSendStream[bytes]
        self.outgoing: MemoryObjectReceiveStream[bytes]
        self.incoming, self._receive = anyio.create_memory_object_stream[bytes](100)
        self._send, self.outgoing = anyio.create_memory_object_stream[bytes](0)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What was put into ``incoming`` next."""
        return await self._receive.receive()

    async def send(self, item: bytes) -> None:
        """Writes, and waits for a reader."""
        await self._send.send(item)

    async def send_eof(self) -> None:
        """Is never called."""
        raise AssertionError("nobody half-closes these")

    async def aclose(self) -> None:
        """Closes both ends of both directions."""
        for stream in (self.incoming, self.outgoing, self._send, self._receive):
            stream.close()
