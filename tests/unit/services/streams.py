"""Streams without a network, for services."""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack.types import Address, SocketAddress


class Pipe(anyio.abc.ByteStream):
    """One end of a stream in memory, with half-close.

    Args:
        remote: whom it comes from, as of a real stream.
    """

    def __init__(
        self,
        send: anyio.abc.ObjectSendStream[bytes],
        receive: anyio.abc.ObjectReceiveStream[bytes],
        remote: SocketAddress | None = None,
    ) -> None:
        self._send = send
        self._receive = receive
        self._unread = b""
        self._remote = remote
        self.is_closed = False

    @property
    def local_address(self) -> SocketAddress:
        """Who we are: node 5."""
        return SocketAddress(Address(0, 5), 53)

    @property
    def remote_address(self) -> SocketAddress:
        """Who is at the other end."""
        assert self._remote is not None, "made with its address"
        return self._remote

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """What arrived."""
        if not self._unread:
            self._unread = await self._receive.receive()
        else:
            await anyio.lowlevel.checkpoint()
        data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        """Sends at once."""
        if item:
            await self._send.send(bytes(item))

    async def send_eof(self) -> None:
        """Ends our direction."""
        await self._send.aclose()

    async def aclose(self) -> None:
        """Ends both."""
        self.is_closed = True
        await self._send.aclose()
        await self._receive.aclose()


def pipe(
    *, dialler: SocketAddress | None = None, server: SocketAddress | None = None
) -> tuple[Pipe, Pipe]:
    """Both ends: of who dials, and of who serves."""
    up_send, up_receive = anyio.create_memory_object_stream[bytes](64)
    down_send, down_receive = anyio.create_memory_object_stream[bytes](64)
    return Pipe(up_send, down_receive, server), Pipe(down_send, up_receive, dialler)
