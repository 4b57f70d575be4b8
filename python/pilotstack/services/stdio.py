"""Text and bytes between people and agents: standard input and output on port 1000.

There are no frames: what is sent is one sequence of bytes in each direction, which ends by itself.
``serve`` and ``session`` join a stream to whatever reads and writes bytes; :class:`Lines` reads
text, in lines whose length is bounded. It must not touch the process's own descriptors; the command
line does that.
"""

from __future__ import annotations

import codecs
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from pilotstack.client import Listener, Stream

#: Characters of a line; a longer one is delivered in parts.
MAX_LINE: Final = 1 << 16


class Source(Protocol):
    """Where the bytes that are sent come from."""

    async def receive(self) -> bytes:
        """The next bytes.

        Raises:
            anyio.EndOfStream: there are no more.
        """


class Sink(Protocol):
    """Where the bytes that arrive go."""

    async def send(self, item: bytes) -> None:
        """Takes bytes."""


async def session(
    stream: ByteStream, source: Source, sink: Sink, *, patience: float | None = None
) -> None:
    """Copies both ways at once until both directions have ended. Either may end first.

    Args:
        patience: seconds of silence after which ``source`` is over once the peer has finished; none
            unless given.

    Raises:
        StreamBroken: the stream ended other than by FIN.
    """

    sending = anyio.CancelScope()
    has_peer_finished = False

    def wait_for_more() -> None:
        if has_peer_finished and patience is not None:
            sending.deadline = anyio.current_time() + patience

    async def upward() -> None:
        with sending, suppress(anyio.EndOfStream):
            while True:
                await stream.send(await source.receive())
                wait_for_more()
        await stream.send_eof()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upward)
        with suppress(anyio.EndOfStream):
            while True:
                await sink.send(await stream.receive())
        has_peer_finished = True
        wait_for_more()


class Lines:
    """The text of a stream, line by line, without line ends. Bytes that are not UTF-8 are replaced.

    Args:
        stream: to read from and to write to.
        limit: characters of a line; a longer one comes in parts.
    """

    def __init__(self, stream: Stream, limit: int = MAX_LINE) -> None:
        if limit < 1:
            raise InvalidArgument(
                f"a line has at least 1 character, not {limit}", hint=f"the default is {MAX_LINE}"
            )
        self.stream = stream
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._is_over = False

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        while True:
            line, found, rest = self._text.partition("\n")
            if found and len(line) <= self._limit:
                self._text = rest
                return line.removesuffix("\r")
            if len(self._text) > self._limit:
                line, self._text = self._text[: self._limit], self._text[self._limit :]
                return line
            if self._is_over:
                line, self._text = self._text, ""
                if not line:
                    raise StopAsyncIteration
                return line
            try:
                self._text += self._decoder.decode(await self.stream.receive(self._limit))
            except anyio.EndOfStream:
                self._is_over = True
                self._text += self._decoder.decode(b"", final=True)

    async def send(self, line: str) -> None:
        """Sends a line."""
        await self.stream.send(f"{line}\n".encode())


async def serve(listener: Listener, handler: Callable[[Lines], Awaitable[object]]) -> None:
    """Runs ``handler`` with the lines of each stream, which ends with it, until cancelled.

    Raises:
        NotRunning: the daemon went away.
    """

    async def handle(stream: Stream) -> None:
        async with stream:
            await handler(Lines(stream))

    await listener.serve(handle)
