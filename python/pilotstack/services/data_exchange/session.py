"""One connection of a peer to the data exchange: frames in, answers out, in the same order.

Nothing long is held in memory: files are written as they come, messages are bounded. What cannot be
stored is answered with the reason, and the connection goes on where the next frame can be found.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import msgspec

from pilotstack import _events
from pilotstack.services.budget import Full
from pilotstack.services.data_exchange import frames, names
from pilotstack.services.data_exchange.bulk_intake import BulkIntake
from pilotstack.services.data_exchange.channel import Channel
from pilotstack.services.data_exchange.duplicates import key_of
from pilotstack.services.data_exchange.filestream_intake import FilestreamIntake
from pilotstack.services.data_exchange.frames import MESSAGES, FrameError, FrameType, Header, Tag
from pilotstack.services.data_exchange.intake import Intake
from pilotstack.services.data_exchange.refusals import Hangup, Refused, telling

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pilotstack.services.budget import Hold
    from pilotstack.services.data_exchange.stores import Stores
    from pilotstack.types import SocketAddress

__all__ = ["Session"]

log = _events.get_logger(__name__)

#: Seconds without a byte after which a connection is closed.
IDLE: Final = 120.0
#: Seconds for a whole message: it occupies memory meanwhile.
MESSAGE_TIME: Final = 300.0
#: Bytes of a refused payload that are read over, so that the connection can go on.
MAX_SKIPPED: Final = 1 << 24
#: Seconds for which, and bytes that, are still read after an error: closing with unread data would
#: reset the stream, and the answer could be lost.
_FAREWELL: Final = 5.0
_MAX_UNREAD: Final = 256 << 20

_BUSY: Final = "the receiver is busy, try again later"

_LOST: Final = (
    *(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead),
    OSError,
)


class Session:
    """Serves one connection.

    Args:
        stream: the connection, which is closed at the end.
        peer: who is at the other end.
        stores: where things go.
    """

    def __init__(self, stream: ByteStream, peer: SocketAddress, stores: Stores) -> None:
        channel = Channel(stream, peer, stores, IDLE)
        self._stream, self._reader, self._stores = stream, channel.reader, stores
        self._node, self._address = channel.node, channel.address
        #: Bytes of the file in one frame that are still to come.
        self._unread = 0
        self._bulk = BulkIntake(channel)
        self._filestream = FilestreamIntake(channel)

    async def run(self) -> None:
        """Serves until the peer is done, or cannot go on.

        Raises:
            StreamBroken: the stream broke.
        """
        async with self._stream:
            try:
                while (header := await self._reader.header()) is not None:
                    answer = await self._answer(header)
                    if answer:
                        await self._stream.send(answer)
            except Hangup as end:
                await self._end(end.reason, end.answer)
            except FrameError as error:
                await self._end("malformed", frames.encode(FrameType.TEXT, f"ERR {error}".encode()))
            except anyio.IncompleteRead:
                self._stores.dropped["cut_short"] += 1
            except TimeoutError:
                self._stores.dropped["idle"] += 1
            finally:
                await self._filestream.leave()

    async def _end(self, reason: str, answer: bytes) -> None:
        self._stores.dropped[reason] += 1
        log.debug("exchange_ended", node=self._node, reason=reason)
        with suppress(*_LOST), anyio.move_on_after(_FAREWELL):
            if answer:
                await self._stream.send(answer)
            await self._stream.send_eof()
            left = _MAX_UNREAD
            while left > 0:
                left -= len(await self._reader.some(left))

    async def _answer(self, header: Header) -> bytes:
        match header.type:
            case FrameType.FILESTREAM:
                return await self._filestream.frame(header.length)
            case FrameType.BULK:
                return await self._bulk.frame(header.length)
            case FrameType.TRACE:
                return await self._traced(header.length)
            case FrameType.TAGGED:
                text = await self._tagged(header.length)
            case _:
                text = await self._plain(header, None)
        return frames.encode(FrameType.TEXT, text.encode())

    async def _plain(self, header: Header, tag: Tag | None) -> str:
        """Takes a frame, or one inside another, and returns the answer's text."""
        if header.type in MESSAGES:
            return await self._message(header, tag)
        if header.type == FrameType.FILE:
            return await self._file(header, tag)
        self._stores.dropped["unsupported"] += 1
        await self._skip(header.type, header.length)
        return frames.unsupported(header.type)

    async def _skip(self, kind: int, length: int) -> None:
        if length > MAX_SKIPPED:
            text = frames.refusal(kind, f"a frame of {length} bytes is too large")
            raise Hangup("oversize", frames.encode(FrameType.TEXT, text.encode()))
        await self._reader.skip(length)

    async def _traced(self, length: int) -> bytes:
        received = time.time_ns()
        head = await self._reader.exactly(min(length, frames.TRACE_LEN))
        try:
            trace = frames.parse_trace(head)
        except FrameError as error:
            self._stores.dropped["malformed"] += 1
            return frames.encode(FrameType.TEXT, f"ERR trace parse: {error}".encode())
        text = await self._plain(Header(trace.inner_type, length - len(head)), None)
        written = time.time_ns()
        times = {
            "ack_sent_at_ns": time.time_ns(),
            "inbox_written_at_ns": written,
            "inner_ack": text,
            "received_at_ns": received,
            "sent_at_ns": trace.sent_ns,
        }
        return frames.encode(FrameType.JSON, msgspec.json.encode(times))

    async def _tagged(self, length: int) -> str:
        if length < 2:
            raise FrameError("a tag that is cut short")
        size = frames.parse_tag_len(await self._reader.exactly(2))
        if length < 2 + size + 4:
            raise FrameError("a tag that is cut short")
        head = frames.parse_tag_head(await self._reader.exactly(size + 4))
        return await self._plain(Header(head.inner_type, length - 2 - size - 4), head.tag)

    # Messages

    async def _message(self, header: Header, tag: Tag | None) -> str:
        kind, length = header.type, header.length
        if length > frames.MAX_MESSAGE:
            reason = f"a message has at most {frames.MAX_MESSAGE} bytes, not {length}"
            raise self._hangup("oversize", kind, reason)
        with (
            anyio.CancelScope() as scope,
            self._stores.budget.hold(self._node, scope.cancel) as hold,
        ):
            return await self._take_message(header, tag, hold)
        # The room is wanted for others.
        raise self._hangup("busy", kind, _BUSY)

    async def _take_message(self, header: Header, tag: Tag | None, hold: Hold) -> str:
        kind, length = header.type, header.length
        try:
            with anyio.fail_after(MESSAGE_TIME):
                data = await self._reader.payload(length, hold.take)
        except Full as error:
            raise self._hangup("busy", kind, _BUSY) from error
        hold.keep()
        key = self._key(kind, tag, "", data)
        if key is not None and self._stores.duplicates.is_known(key, time.monotonic()):
            return frames.ack(kind, length, is_duplicate=True)
        store = self._stores.inbox.store
        try:
            number = await anyio.to_thread.run_sync(store, self._address, kind, data, tag)
        except Refused as error:
            self._stores.dropped[error.code] += 1
            return frames.refusal(kind, error.reason)
        self._note(key)
        log.info("message_received", node=self._node, id=number, bytes=length)
        return frames.ack(kind, length)

    @staticmethod
    def _hangup(reason: str, kind: int, text: str) -> Hangup:
        answer = frames.encode(FrameType.TEXT, frames.refusal(kind, text).encode())
        return Hangup(reason, answer)

    def _key(self, kind: int, tag: Tag | None, name: str, data: bytes) -> bytes | None:
        if tag is None or not tag.message_id:
            return None
        return key_of(self._node, kind, tag, name, hashlib.sha256(data).digest())

    def _note(self, key: bytes | None) -> None:
        if key is not None:
            self._stores.duplicates.note(key, self._node, time.monotonic())

    # Files in one frame

    async def _file(self, header: Header, tag: Tag | None) -> str:
        left = header.length
        raw = b""
        if left >= 2:
            length = int.from_bytes(await self._reader.exactly(2))
            left -= 2
            if length <= left:
                raw = await self._reader.exactly(length)
                left -= length
        self._unread = left
        try:
            with telling():
                name = names.safe_name(raw)
            await self._store(name, left, tag)
        except Refused as error:
            self._stores.dropped[error.code] += 1
            if self._unread > MAX_SKIPPED:
                raise self._hangup(error.code, FrameType.FILE, error.reason) from error
            await self._reader.skip(self._unread)
            return frames.refusal(FrameType.FILE, error.reason)
        except _Duplicate:
            return frames.ack(FrameType.FILE, left, is_duplicate=True)
        return frames.ack(FrameType.FILE, left)

    async def _store(self, name: str, size: int, tag: Tag | None) -> None:
        folder = self._stores.folder
        partial = await anyio.to_thread.run_sync(lambda: folder.begin(self._node, size=size))
        intake = Intake(partial, self._stores.threads)
        try:
            while self._unread:
                part = await self._reader.some(self._unread)
                self._unread -= len(part)
                await intake.put(part)
            await intake.flush()
            await self._finish(intake, name, tag)
        finally:
            await intake.settle()
            await self._stores.leave(folder.drop, partial)

    async def _finish(self, intake: Intake, name: str, tag: Tag | None) -> None:
        partial, folder = intake.partial, self._stores.folder
        key = None
        if tag is not None and tag.message_id:
            key = key_of(self._node, FrameType.FILE, tag, name, partial.digest())
            if self._stores.duplicates.is_known(key, time.monotonic()):
                raise _Duplicate
        with anyio.CancelScope(shield=True):
            arrival = await anyio.to_thread.run_sync(
                folder.finish, partial, name, self._address, None
            )
        self._note(key)
        self._stores.arrived(arrival)


class _Duplicate(Exception):
    """The file is stored already."""
