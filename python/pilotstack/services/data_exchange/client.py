"""What senders use: messages and files to the data exchange of another node.

::

    async with data_exchange.connect(driver, "agent-b") as peer:
        await peer.send_text("hello")
        await peer.send_file("report.pdf")
"""

from __future__ import annotations

import functools
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import msgspec

from pilotstack import wellknown
from pilotstack.errors import InvalidArgument, PilotError, Unavailable
from pilotstack.services.data_exchange import frames
from pilotstack.services.data_exchange.answers import Answer, NotStored, SentFolder
from pilotstack.services.data_exchange.connection import Connection
from pilotstack.services.data_exchange.frames import Frame, FrameError, FrameType, Tag
from pilotstack.services.data_exchange.sending import (
    Legacy,
    TreePlace,
    close_tree,
    send_bulk,
    send_chunks,
    send_frame,
)
from pilotstack.services.data_exchange.source import Source
from pilotstack.services.data_exchange.tree_source import TreeSource

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from anyio.abc import ByteStream

    from pilotstack.client import Driver
    from pilotstack.services.data_exchange.answers import SentFile
    from pilotstack.services.data_exchange.sending import Progress
    from pilotstack.types import Address

    Dial = Callable[[], Awaitable[ByteStream]]

__all__ = ["Exchange", "connect", "new_tag"]

#: Seconds without progress after which a transfer is given up, and attempts without any.
PATIENCE: Final = 60.0
ATTEMPTS: Final = 3
#: Seconds before the second attempt; twice as long before each further one.
_PAUSE: Final = 0.5

_BROKEN: Final = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)


def new_tag(reply_to: str = "") -> Tag:
    """A tag with an id that nobody else has."""
    return Tag(uuid.uuid4().hex, reply_to)


def connect(
    driver: Driver,
    host: Address | str,
    *,
    port: int = wellknown.DATA_EXCHANGE_PORT,
    patience: float = PATIENCE,
) -> Exchange:
    """The data exchange of a node; enter it with ``async with``.

    Args:
        driver: of this node.
        host: address or hostname of the other.
        patience: seconds without progress after which a transfer is given up.
    """

    async def dial() -> ByteStream:
        return await driver.dial((host, port), no_delay=True)

    return Exchange(dial, patience=patience)


class Exchange:
    """Sends to one node. Calls are made one after the other.

    Args:
        dial: opens a stream to it; called again when a stream breaks.
        patience: seconds without progress after which a transfer is given up.
    """

    def __init__(self, dial: Dial, *, patience: float = PATIENCE) -> None:
        self._dial = dial
        self._patience = patience
        self._connection: Connection | None = None
        #: The receiver knows no tags.
        self._is_plain = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the stream."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _open(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(await self._dial(), self._patience)
        return self._connection

    # Messages

    async def send_text(self, text: str, *, tag: Tag | None = None) -> Answer:
        """Sends a text; see :meth:`send`."""
        return await self.send(Frame(FrameType.TEXT, text.encode()), tag=tag)

    async def send_bytes(self, data: bytes, *, tag: Tag | None = None) -> Answer:
        """Sends bytes; see :meth:`send`."""
        return await self.send(Frame(FrameType.BINARY, data), tag=tag)

    async def send_json(self, value: Any, *, tag: Tag | None = None) -> Answer:
        """Sends a value as JSON; see :meth:`send`.

        Raises:
            InvalidArgument: JSON cannot hold the value.
        """
        try:
            data = msgspec.json.encode(value)
        except (TypeError, ValueError, msgspec.EncodeError) as error:
            raise InvalidArgument(
                f"not a JSON value: {error}", hint="encode it, and send it by send_bytes"
            ) from error
        return await self.send(Frame(FrameType.JSON, data), tag=tag)

    async def send(self, frame: Frame, *, tag: Tag | None = None) -> Answer:
        """Sends a frame and waits for the answer, whatever it says: see :meth:`Answer.check`.

        Args:
            tag: ids of the message. A receiver that knows tags stores a message that is sent twice
                once; others are sent the message without.

        Raises:
            InvalidArgument: the frame is too large.
            StreamBroken: the stream broke; the message may have been stored.
            TimedOut: no answer came.
        """
        if len(frame.payload) > frames.MAX_MESSAGE:
            limit = frames.MAX_MESSAGE
            raise InvalidArgument(
                f"a message has at most {limit} bytes, not {len(frame.payload)}",
                hint="send it as a file",
            )
        if tag is not None and not self._is_plain:
            try:
                answer = await self._exchange(frames.tagged(tag, frame))
            except FrameError as error:
                raise InvalidArgument(str(error), hint="tags are made by new_tag") from error
            if answer is not None and not _is_unknown(answer, FrameType.TAGGED):
                return Answer(answer, tag)
            self._is_plain = True
        return Answer(await self._exchange(frame))

    async def _exchange(self, frame: Frame) -> Frame | None:
        connection = await self._open()
        try:
            # One write: receivers of existing nodes see segments.
            data = frames.encode(frame.type, frame.payload)
            answer = await connection.exchange(lambda: connection.send(data))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        if answer is None:
            await self.aclose()
        return answer

    # Files

    async def send_file(
        self,
        file: str | os.PathLike[str] | int,
        *,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> SentFile:
        """Sends a file of any size; memory does not grow with it.

        A stream that breaks is dialled again, and the receiver is asked what it has.

        Args:
            file: a path, or a descriptor to read from, such as that of a pipe.
            name: what the receiver calls it.
            progress: called with the bytes that are sent.

        Raises:
            InvalidArgument: it is no file, or changed meanwhile.
            NotFound: there is none.
            NotStored: the receiver refuses it.
            StreamBroken: the stream broke again and again.
            TimedOut: the receiver takes no data.
            Unavailable: the receiver takes only small files.
        """
        with Source(file, name) as source:
            return await self._send_source(source, progress or _ignore, None)

    async def send_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> SentFolder:
        """Sends a folder, which arrives as one. Links in it are left out.

        Raises:
            Unavailable: the receiver takes no folders.
            PilotError: as of :meth:`send_file`.
        """
        tree = TreeSource(folder)
        root = name or tree.name
        sent: list[SentFile] = []
        done = 0
        for file in tree.files:
            with Source(file.path, file.name) as source:
                place = TreePlace(tree.key, root, file.name)
                told = functools.partial(_told, progress or _ignore, done)
                sent.append(await self._send_source(source, told, place))
            done += sent[-1].size
        connection = await self._open()
        try:
            await close_tree(connection, tree.key, root)
        except Legacy as error:
            raise _no_folders() from error
        return SentFolder(name=root, files=tuple(sent), skipped=tree.skipped)

    async def _send_source(
        self, source: Source, progress: Progress, place: TreePlace | None
    ) -> SentFile:
        best = -1
        attempts = 0

        def advanced(count: int) -> None:
            nonlocal best, attempts
            if count > best:
                best, attempts = count, 0
            progress(count)

        while True:
            try:
                return await self._send_once(source, advanced, place)
            except _BROKEN:
                attempts += 1
                if attempts >= ATTEMPTS or source.size is None:
                    raise
            except NotStored as error:
                # What the receiver had was another file's start: it has dropped that.
                if error.code != "hash_mismatch" or attempts or source.size is None:
                    raise
                attempts += 1
            await anyio.sleep(_PAUSE * 2**attempts)

    async def _send_once(
        self, source: Source, progress: Progress, place: TreePlace | None
    ) -> SentFile:
        try:
            connection = await self._open()
            try:
                return await send_bulk(connection, source, progress, place)
            except Legacy as legacy:
                if place is not None:
                    raise _no_folders() from legacy
                if source.size is None:
                    raise _no_pipes() from legacy
                return await self._send_legacy(source, progress, legacy)
        except BaseException:
            # Where the next frame would begin is not known.
            with anyio.CancelScope(shield=True), suppress(*_BROKEN, PilotError):
                await self.aclose()
            raise

    async def _send_legacy(self, source: Source, progress: Progress, legacy: Legacy) -> SentFile:
        if not legacy.is_usable:
            await self.aclose()
        if legacy.has_chunks:
            try:
                return await send_chunks(await self._open(), source, progress)
            except Legacy as older:
                if not older.is_usable:
                    await self.aclose()
        return await send_frame(await self._open(), source, progress)


def _is_unknown(answer: Frame, kind: FrameType) -> bool:
    """Whether the receiver does not know a type of ours, whichever way it says so."""
    ack = frames.parse_ack(answer)
    return ack is not None and ack.name == f"UNKNOWN({int(kind)})"


def _no_folders() -> Unavailable:
    return Unavailable("the receiver takes no folders", hint="send an archive of it")


def _no_pipes() -> Unavailable:
    return Unavailable(
        "the receiver takes only files whose size is known", hint="write it to a file first"
    )


def _told(progress: Progress, begin: int, count: int) -> None:
    progress(begin + count)


def _ignore(count: int) -> None:
    del count
