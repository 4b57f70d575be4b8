"""How a file is sent: three ways, the best that the receiver knows.

An offer that is ours comes first. Existing nodes answer it like any unknown frame, and are sent
chunks or one frame then.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.errors import InvalidArgument, TimedOut, Unavailable
from pilotstack.services.data_exchange import bulk, filestream, frames
from pilotstack.services.data_exchange.answers import NotStored, SentFile
from pilotstack.services.data_exchange.connection import PIECE
from pilotstack.services.data_exchange.frames import FrameError, FrameType
from pilotstack.services.data_exchange.pump import Ended, Sender
from pilotstack.services.data_exchange.pumping import run_pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.services.data_exchange.connection import Connection
    from pilotstack.services.data_exchange.frames import Frame
    from pilotstack.services.data_exchange.source import Source

    #: Told how many bytes of the file are sent.
    Progress = Callable[[int], object]

__all__ = ["Legacy", "TreePlace", "send_bulk", "send_chunks", "send_frame"]

#: Seconds that an old node has to answer the announcement of chunks.
_INIT: Final = 5.0
#: Seconds between two calls about progress.
_TELL: Final = 0.1
_UNKNOWN_BULK: Final = f"UNKNOWN({int(FrameType.BULK)})"


class Legacy(Exception):
    """The receiver does not know our frames.

    Args:
        has_chunks: it may know chunks.
        is_usable: the connection can still be used.
    """

    def __init__(self, *, has_chunks: bool, is_usable: bool = True) -> None:
        super().__init__("the receiver does not know our frames")
        self.has_chunks = has_chunks
        self.is_usable = is_usable


class TreePlace:
    """Where a file belongs in a folder that is sent.

    Args:
        tree: key of the folder.
        root: its name.
        path: of the file below it.
    """

    __slots__ = ("path", "root", "tree")

    def __init__(self, tree: str, root: str, path: str) -> None:
        self.tree = tree
        self.root = root
        self.path = path


async def send_bulk(
    connection: Connection,
    source: Source,
    progress: Progress,
    place: TreePlace | None = None,
) -> SentFile:
    """Offers a file, and sends what the receiver does not have.

    Raises:
        InvalidArgument: the file changed meanwhile.
        Legacy: the receiver does not know our frames.
        NotStored: the receiver refuses it.
    """
    offer = bulk.Offer(source.key, source.name, source.size)
    if place is not None:
        offer = bulk.Offer(source.key, place.path, source.size, place.tree, place.root)
    await connection.send(bulk.encode(offer))
    accepted = _control(await connection.answer())
    if not isinstance(accepted, bulk.Accept):
        raise _refused(accepted)
    offset = accepted.offset
    await source.restart(offset)
    progress(offset)
    data = _Data(connection, source, offset, progress)
    result = _control(await connection.exchange(data.send))
    if not isinstance(result, bulk.Result) or result.code:
        raise _refused(result)
    return SentFile(
        name=source.name,
        size=offset + data.sent,
        sent=data.sent,
        resumed=offset,
        sha256=source.sha256.hex(),
        transport="bulk",
        is_verified=True,
    )


class _Data:
    """The data of one file, on its way.

    Args:
        offset: where it begins in the file.
    """

    def __init__(
        self, connection: Connection, source: Source, offset: int, progress: Progress
    ) -> None:
        self._connection = connection
        self._source = source
        self._offset = offset
        self._progress = progress
        self.sent = 0

    async def send(self) -> None:
        """Sends it, and its hash after it.

        Raises:
            InvalidArgument: the file changed.
        """
        source, connection = self._source, self._connection
        socket = connection.socket
        # A pipe may be silent for as long as it likes: no thread waits for it.
        if socket is None or source.size is None:
            await self._by_loop()
        else:
            await self._by_thread(Sender(socket, connection.patience))
        self._progress(self._offset + self.sent)
        if source.size is not None and self._offset + self.sent != source.size:
            await connection.send(bulk.encode(bulk.Abort("the file changed")))
            raise InvalidArgument("the file changed while it was sent", hint="send it again")
        await connection.send(bulk.encode(bulk.End(source.sha256.hex())))

    async def _by_loop(self) -> None:
        while block := await self._source.block():
            await self._connection.send(bulk.data_head(len(block)))
            await self._connection.send(block)
            self.sent += len(block)
            self._progress(self._offset + self.sent)

    async def _by_thread(self, pump: Sender) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell)
            failure = None
            try:
                await run_pump(pump, lambda: self._run(pump))
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        if isinstance(failure, Ended):
            # The stream tells why.
            await self._connection.broken()
        if isinstance(failure, TimeoutError):
            raise TimedOut("the receiver takes no more data", hint="try again: it resumes")
        if failure is not None:
            raise failure

    def _run(self, pump: Sender) -> None:
        with closing(self._source.blocks()) as blocks:
            for block in blocks:
                pump.send(bulk.data_head(len(block)))
                for begin in range(0, len(block), PIECE):
                    piece = block[begin : begin + PIECE]
                    pump.send(piece)
                    self.sent += len(piece)
                    self._connection.advanced()

    async def _tell(self) -> None:
        while True:
            await anyio.sleep(_TELL)
            self._progress(self._offset + self.sent)


async def close_tree(connection: Connection, tree: str, root: str) -> None:
    """Says that everything in a folder was sent.

    Raises:
        NotStored: the receiver refuses it.
    """
    await connection.send(bulk.encode(bulk.Close(tree, root)))
    result = _control(await connection.answer())
    if not isinstance(result, bulk.Result) or result.code:
        raise _refused(result)


def _control(answer: Frame | None) -> bulk.Control:
    """What the receiver says.

    Raises:
        Legacy: it does not know our frames.
    """
    if answer is None:
        raise Legacy(has_chunks=True, is_usable=False)
    if answer.type == FrameType.BULK:
        try:
            control = bulk.parse(answer.payload)
        except FrameError as error:
            raise NotStored(f"the receiver sent {error}") from error
        if isinstance(control, bulk.Accept | bulk.Result):
            return control
    ack = frames.parse_ack(answer)
    # Of two generations, one acknowledges what it does not know, and knows no chunks.
    knows_no_chunks = ack is not None and ack.name == _UNKNOWN_BULK and not ack.reason
    raise Legacy(has_chunks=not knows_no_chunks)


def _refused(control: bulk.Control) -> NotStored:
    if isinstance(control, bulk.Result) and control.code:
        code = control.code if control.code.isidentifier() else NotStored.code
        text = f"the receiver did not store it: {control.message or control.code}"
        return NotStored(text, code=code)
    return NotStored("the receiver sent a frame that nobody expects")


async def send_chunks(connection: Connection, source: Source, progress: Progress) -> SentFile:
    """Sends a file in chunks, of which an existing node may have some.

    Raises:
        InvalidArgument: the file changed, or is a pipe.
        Legacy: the receiver does not know chunks.
        NotStored: the receiver refuses it.
    """
    if source.size is None:
        raise Legacy(has_chunks=False)
    digest = await _hash(source)
    number = digest[: filestream.ID_LEN]
    name = source.name.encode()
    init = filestream.Init(number, source.size, digest, name)
    await connection.send(frames.encode(FrameType.FILESTREAM, filestream.encode(init)))
    try:
        first = await connection.answer(_INIT)
    except TimedOut:
        raise Legacy(has_chunks=False, is_usable=False) from None
    answer = _stream_answer(first)
    if not isinstance(answer, filestream.InitAck):
        raise _failed(answer)
    transfer = _Chunks(connection, source, number, answer.offset, progress)
    await source.restart(answer.offset)
    await transfer.run()
    return SentFile(
        name=source.name,
        size=source.size,
        sent=source.size - answer.offset,
        resumed=answer.offset,
        sha256=digest.hex(),
        transport="filestream",
        is_verified=True,
    )


async def _hash(source: Source) -> bytes:
    assert source.size is not None
    await source.restart(source.size)
    return source.sha256


def _stream_answer(answer: Frame | None) -> filestream.Message:
    if answer is None:
        raise Legacy(has_chunks=False, is_usable=False)
    if answer.type != FrameType.FILESTREAM:
        raise Legacy(has_chunks=False)
    try:
        message = filestream.parse(answer.payload)
    except FrameError as error:
        raise NotStored(f"the receiver sent a {error}") from error
    if isinstance(message, filestream.Init):
        # It only sends back what it gets.
        raise Legacy(has_chunks=False)
    return message


def _failed(message: filestream.Message) -> NotStored:
    text = message.text if isinstance(message, filestream.Complete | filestream.Abort) else ""
    return NotStored(f"the receiver did not store it: {text or 'no reason given'}")


class _Chunks:
    def __init__(
        self,
        connection: Connection,
        source: Source,
        number: bytes,
        offset: int,
        progress: Progress,
    ) -> None:
        self._connection = connection
        self._source = source
        self._number = number
        self._sent = self._acknowledged = offset
        self._progress = progress

    async def run(self) -> None:
        """Sends all chunks, and waits for the verdict."""
        while block := await self._source.block():
            for begin in range(0, len(block), filestream.CHUNK):
                await self._send(bytes(block[begin : begin + filestream.CHUNK]))
        if self._sent != self._source.size:
            await self._frame(filestream.Abort(self._number, "the file changed"))
            raise InvalidArgument("the file changed while it was sent", hint="send it again")
        await self._frame(filestream.Done(self._number))
        while not await self._listen():
            pass

    async def _send(self, data: bytes) -> None:
        await self._frame(filestream.Chunk(self._number, self._sent, data))
        self._sent += len(data)
        while self._sent - self._acknowledged >= filestream.WINDOW * filestream.CHUNK:
            if await self._listen():
                raise NotStored("the receiver ended the file early")

    async def _frame(self, message: filestream.Message) -> None:
        await self._connection.send(frames.encode(FrameType.FILESTREAM, filestream.encode(message)))

    async def _listen(self) -> bool:
        """Takes one answer; returns whether the receiver has the file."""
        answer = await self._connection.answer()
        if answer is None or answer.type != FrameType.FILESTREAM:
            raise NotStored("the receiver ended the file early")
        message = filestream.parse(answer.payload)
        match message:
            case filestream.Ack():
                self._acknowledged = max(self._acknowledged, message.length)
                self._progress(min(self._acknowledged, self._sent))
                return False
            case filestream.Complete(is_ok=True):
                return True
            case filestream.Complete() | filestream.Abort():
                raise _failed(message)
        return False


async def send_frame(connection: Connection, source: Source, progress: Progress) -> SentFile:
    """Sends a file in one frame, as every node takes it.

    Raises:
        InvalidArgument: the file changed.
        NotStored: the receiver refuses it, or does not answer.
        Unavailable: the file is too large for that, or a pipe.
    """
    head = frames.file_head(source.name)
    size = source.size
    if size is None or len(head) + size > frames.MAX_MESSAGE:
        limit = frames.MAX_MESSAGE - len(head)
        raise Unavailable(
            f"the receiver takes no files of more than {limit} bytes, and none from a pipe",
            hint="send it in parts",
        )
    await source.restart()
    content = hashlib.sha256()
    # The name stands in one piece with the header: some receivers look at the first segment.
    parts = [frames.header(FrameType.FILE, len(head) + size) + head]
    while block := await source.block():
        parts.append(bytes(block))
        content.update(block)
    if sum(map(len, parts)) != frames.HEADER_LEN + len(head) + size:
        raise InvalidArgument("the file changed while it was sent", hint="send it again")
    answer = await connection.exchange(lambda: connection.send(b"".join(parts)))
    if answer is None:
        raise NotStored("the receiver ended the stream without an answer")
    progress(size)
    ack = frames.parse_ack(answer)
    if ack is not None and not ack.is_stored:
        raise NotStored(f"the receiver did not store it: {ack.reason or 'unknown type'}")
    return SentFile(
        name=source.name,
        size=size,
        sent=size,
        resumed=0,
        sha256=content.hexdigest(),
        transport="frame",
        is_verified=False,
        ack=answer.payload.decode(errors="replace") if ack is not None else "",
    )
