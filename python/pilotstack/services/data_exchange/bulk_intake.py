"""Files and folders from our own nodes: offers, data, a verdict (:mod:`.bulk`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
from anyio.abc import SocketAttribute

from pilotstack.services.data_exchange import bulk, names
from pilotstack.services.data_exchange.frames import FrameError, FrameType
from pilotstack.services.data_exchange.intake import Intake
from pilotstack.services.data_exchange.pump import Ended, Receiver
from pilotstack.services.data_exchange.pumping import run_pump
from pilotstack.services.data_exchange.refusals import Hangup, Refused, telling

if TYPE_CHECKING:
    from pilotstack.services.data_exchange.channel import Channel
    from pilotstack.services.data_exchange.partial import Partial

__all__ = ["BulkIntake"]

#: Frames without data in a row that a sender has no use for.
_MAX_EMPTY: Final = 16
#: Seconds without a byte after which a sender is taken for gone.
IDLE: Final = 120.0
#: There is no thread for this file.
_BY_LOOP: Final = b"\0"


class BulkIntake:
    """Takes files of one connection, one after the other.

    Args:
        channel: the connection.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stores = channel.stores

    async def frame(self, length: int) -> bytes:
        """Takes a frame between files, and what follows it; returns the answer.

        Raises:
            FrameError: the peer does not keep to the protocol.
        """
        match await self._control(length):
            case bulk.Offer() as offer:
                result = await self._offered(offer)
            case bulk.Close() as close:
                result = await self._close(close)
            case bulk.Abort():
                return b""
            case _:
                raise FrameError("a bulk frame that nobody expects")
        return bulk.encode(result)

    async def _control(self, length: int) -> bulk.Control:
        if length > bulk.MAX_CONTROL:
            raise FrameError("a bulk frame that is too long")
        return bulk.parse(await self._channel.reader.exactly(length))

    async def _close(self, close: bulk.Close) -> bulk.Result:
        channel, folder = self._channel, self._stores.folder
        try:
            with telling():
                name = names.safe_name(close.root)
            arrival = await anyio.to_thread.run_sync(
                folder.close_tree, channel.node, close.tree, name, channel.address
            )
        except Refused as error:
            return self._refused(error)
        self._stores.arrived(arrival)
        return bulk.Result(bytes=arrival.bytes)

    def _refused(self, error: Refused) -> bulk.Result:
        self._stores.dropped[error.code] += 1
        return bulk.Result(code=error.code, message=error.reason)

    async def _offered(self, offer: bulk.Offer) -> bulk.Result:
        channel, folder = self._channel, self._stores.folder
        try:
            with telling():
                name = "" if offer.tree else names.safe_name(offer.path)
                if offer.tree:
                    names.safe_path(offer.path)
            partial = await anyio.to_thread.run_sync(
                lambda: folder.begin(
                    channel.node,
                    key=offer.key if offer.size is not None else "",
                    size=offer.size,
                    tree=offer.tree,
                    path=offer.path,
                )
            )
        except Refused as error:
            # Nothing was accepted, so nothing follows: the connection goes on.
            return self._refused(error)
        end = folder.keep
        intake = Intake(partial, self._stores.threads)
        try:
            await channel.stream.send(bulk.encode(bulk.Accept(partial.offset)))
            digest = await self._pumped(partial)
            if digest is _BY_LOOP:
                if partial.offset:
                    await intake.rehash()
                digest = await self._data(intake)
                await intake.flush()
            if digest is None:
                return bulk.Result(code="aborted", message="the sender gave up")
            await self._finish(partial, offer, name, digest)
        except Refused as error:
            end = folder.drop
            result = self._refused(error)
            if error.code == "hash_mismatch":
                return result
            # The sender is in the middle of its data: it is told, and nothing is taken any more.
            raise Hangup(error.code, bulk.encode(result)) from error
        finally:
            await intake.settle()
            await self._stores.leave(end, partial)
        return bulk.Result(bytes=partial.offset)

    async def _finish(self, partial: Partial, offer: bulk.Offer, name: str, digest: bytes) -> None:
        folder, channel = self._stores.folder, self._channel
        with anyio.CancelScope(shield=True):
            if offer.tree:
                await anyio.to_thread.run_sync(
                    folder.finish_in_tree, partial, offer.tree, offer.path, digest
                )
                return
            arrival = await anyio.to_thread.run_sync(
                folder.finish, partial, name, channel.address, digest
            )
        self._stores.arrived(arrival)

    async def _pumped(self, partial: Partial) -> bytes | None:
        """As :meth:`_data`, in a thread of its own; :data:`_BY_LOOP` if there is none."""
        socket = self._channel.stream.extra(SocketAttribute.raw_socket, None)
        lanes = self._stores.lanes
        if socket is None or not lanes.available_tokens:
            return _BY_LOOP
        reader = self._channel.reader
        pump = Receiver(socket, reader.take_rest(), partial, IDLE)
        try:
            kind, left = await run_pump(pump, pump.run, lanes)
        except Ended:
            # The stream tells why, if it broke.
            await reader.some(1)
            raise anyio.IncompleteRead from None
        return await self._last(kind, left)

    async def _data(self, intake: Intake) -> bytes | None:
        """Takes blocks; returns the hash after them, or ``None`` if the sender gave up."""
        reader = self._channel.reader
        empty = 0
        while True:
            header = await reader.header()
            if header is None:
                raise anyio.IncompleteRead
            if header.type != FrameType.BULK or not header.length:
                raise FrameError("a frame inside a file")
            kind = (await reader.exactly(1))[0]
            left = header.length - 1
            if kind != bulk.Kind.DATA:
                return await self._last(kind, left)
            empty = empty + 1 if not left else 0
            if left > bulk.MAX_BLOCK or empty > _MAX_EMPTY:
                raise FrameError("a block of a wrong size")
            while left:
                part = await reader.some(left)
                left -= len(part)
                await intake.put(part)

    async def _last(self, kind: int, left: int) -> bytes | None:
        if left > bulk.MAX_CONTROL:
            raise FrameError("a bulk frame that is too long")
        match bulk.parse(bytes((kind,)) + await self._channel.reader.exactly(left)):
            case bulk.End() as last:
                return bytes.fromhex(last.sha256)
            case bulk.Abort():
                return None
            case _:
                raise FrameError("a bulk frame that nobody expects")
