"""Files in chunks from one generation of existing nodes (:mod:`.filestream`).

Several may be under way on a connection. Chunks out of order are held within a bound, those that
are there already are acknowledged again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from pilotstack.services.data_exchange import filestream as wire
from pilotstack.services.data_exchange import frames, names
from pilotstack.services.data_exchange.frames import FrameError, FrameType
from pilotstack.services.data_exchange.intake import Intake
from pilotstack.services.data_exchange.refusals import Refused, telling

if TYPE_CHECKING:
    from pilotstack.services.data_exchange.channel import Channel

__all__ = ["FilestreamIntake"]

#: Files under way on one connection.
MAX_TRANSFERS: Final = 4
#: Bytes of chunks out of order that are held for one file.
MAX_HELD: Final = 16 * wire.CHUNK
#: Bytes of a frame beside its data.
_OVERHEAD: Final = 1 + wire.ID_LEN + 8


class _Transfer:
    def __init__(self, init: wire.Init, name: str, intake: Intake) -> None:
        self.init = init
        self.name = name
        self.intake = intake
        self.early: dict[int, bytes] = {}
        self.held = 0


class FilestreamIntake:
    """Takes chunked files of one connection.

    Args:
        channel: the connection.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stores = channel.stores
        self._transfers: dict[bytes, _Transfer] = {}

    async def frame(self, length: int) -> bytes:
        """Takes a frame and returns the answer, if there is one.

        Raises:
            FrameError: it is too long.
        """
        if length > wire.MAX_PAYLOAD + _OVERHEAD:
            raise FrameError("a stream frame that is too long")
        payload = await self._channel.reader.payload(length)
        try:
            message = wire.parse(payload)
        except FrameError as error:
            self._stores.dropped["malformed"] += 1
            number = payload[1 : 1 + wire.ID_LEN] if len(payload) > wire.ID_LEN else wire.NO_ID
            return _frame(wire.Complete(number, False, str(error)))
        match message:
            case wire.Init():
                return await self._init(message)
            case wire.Chunk():
                return await self._chunk(message)
            case wire.Done():
                return await self._done(message)
            case wire.Abort():
                await self._leave(self._transfers.pop(message.id, None))
        return b""

    async def _init(self, init: wire.Init) -> bytes:
        channel, folder = self._channel, self._stores.folder
        await self._leave(self._transfers.pop(init.id, None))
        try:
            if init.id != init.sha256[: wire.ID_LEN]:
                raise Refused("malformed", "the id is not the start of the hash")
            if len(self._transfers) >= MAX_TRANSFERS:
                raise Refused("busy", "too many files at once")
            with telling():
                name = names.safe_name(init.name)
            key = init.id.hex()
            partial = await anyio.to_thread.run_sync(
                lambda: folder.begin(channel.node, key=key, size=init.size)
            )
        except Refused as error:
            return self._refused(init.id, error)
        intake = Intake(partial, self._stores.threads)
        if partial.offset:
            await intake.rehash()
        self._transfers[init.id] = _Transfer(init, name, intake)
        return _frame(wire.InitAck(init.id, partial.offset))

    def _refused(self, number: bytes, error: Refused) -> bytes:
        self._stores.dropped[error.code] += 1
        return _frame(wire.Complete(number, False, error.reason))

    async def _chunk(self, chunk: wire.Chunk) -> bytes:
        transfer = self._transfers.get(chunk.id)
        if transfer is None:
            return _frame(wire.Abort(chunk.id, "no active transfer (send INIT first)"))
        size = transfer.init.size
        if chunk.offset + len(chunk.data) > size:
            text = (
                f"chunk at {chunk.offset} of {len(chunk.data)} bytes exceeds declared size {size}"
            )
            return await self._failed(transfer, Refused("malformed", text))
        try:
            await self._take(transfer, chunk)
        except Refused as error:
            return await self._failed(transfer, error)
        return _frame(wire.Ack(chunk.id, transfer.intake.offset))

    async def _take(self, transfer: _Transfer, chunk: wire.Chunk) -> None:
        intake = transfer.intake
        if chunk.offset > intake.offset:
            fits = transfer.held + len(chunk.data) <= MAX_HELD
            if fits and chunk.data and chunk.offset not in transfer.early:
                transfer.early[chunk.offset] = chunk.data
                transfer.held += len(chunk.data)
            return
        await intake.put(chunk.data[intake.offset - chunk.offset :])
        while (ready := [at for at in transfer.early if at <= intake.offset]) != []:
            for at in sorted(ready):
                data = transfer.early.pop(at)
                transfer.held -= len(data)
                await intake.put(data[max(0, intake.offset - at) :])

    async def _failed(self, transfer: _Transfer, error: Refused) -> bytes:
        del self._transfers[transfer.init.id]
        await self._leave(transfer, is_dropped=True)
        return self._refused(transfer.init.id, error)

    async def _done(self, done: wire.Done) -> bytes:
        transfer = self._transfers.get(done.id)
        if transfer is None:
            return _frame(wire.Complete(done.id, False, "no active transfer"))
        init, intake, folder = transfer.init, transfer.intake, self._stores.folder
        if intake.offset < init.size:
            # More may follow: the transfer goes on.
            text = f"incomplete: have {intake.offset} of {init.size} bytes"
            return _frame(wire.Complete(done.id, False, text))
        try:
            await intake.flush()
            with anyio.CancelScope(shield=True):
                arrival = await anyio.to_thread.run_sync(
                    folder.finish,
                    intake.partial,
                    transfer.name,
                    self._channel.address,
                    init.sha256,
                )
        except Refused as error:
            return await self._failed(transfer, error)
        del self._transfers[done.id]
        self._stores.arrived(arrival)
        return _frame(wire.Complete(done.id, True))

    async def leave(self) -> None:
        """Keeps files that are not complete; at the end of the connection."""
        while self._transfers:
            _, transfer = self._transfers.popitem()
            await self._leave(transfer)

    async def _leave(self, transfer: _Transfer | None, *, is_dropped: bool = False) -> None:
        if transfer is None:
            return
        with anyio.CancelScope(shield=True):
            await transfer.intake.settle()
            folder = self._stores.folder
            end = folder.drop if is_dropped else folder.keep
            await self._stores.leave(end, transfer.intake.partial)


def _frame(message: wire.Message) -> bytes:
    return frames.encode(FrameType.FILESTREAM, wire.encode(message))
