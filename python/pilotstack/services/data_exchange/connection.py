"""The sender's end of a stream to a data exchange: frames out, answers in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import anyio
from anyio.abc import SocketAttribute

from pilotstack.errors import TimedOut
from pilotstack.services.data_exchange import frames
from pilotstack.services.data_exchange.frames import Frame, FrameError
from pilotstack.services.data_exchange.reader import Reader

if TYPE_CHECKING:
    import socket as sockets
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

__all__ = ["Connection"]

#: Bytes handed to the stream at once: a peer that takes fewer in the time of patience hangs.
PIECE: Final = 1 << 18


class Connection:
    """One stream.

    Args:
        stream: to the receiver.
        patience: seconds without progress after which it is given up.
    """

    def __init__(self, stream: ByteStream, patience: float) -> None:
        self._stream = stream
        self._reader = Reader(stream)
        self.patience = patience
        self._progress = 0

    @property
    def socket(self) -> sockets.socket | None:
        """That of the stream, if it has one."""
        return self._stream.extra(SocketAttribute.raw_socket, None)

    def advanced(self) -> None:
        """Notes that the receiver took something, from any thread."""
        self._progress += 1

    async def aclose(self) -> None:
        """Closes it."""
        await self._stream.aclose()

    async def send(self, data: bytes | memoryview) -> None:
        """Sends bytes, piece by piece."""
        view = memoryview(data)
        for begin in range(0, len(view), PIECE):
            await self._stream.send(view[begin : begin + PIECE])  # type: ignore[arg-type]
            self._progress += 1

    async def broken(self) -> NoReturn:
        """Raises why the stream broke.

        Raises:
            anyio.BrokenResourceError: it did.
        """
        await self._stream.send(b"\0")
        raise anyio.BrokenResourceError

    async def answer(self, timeout: float | None = None) -> Frame | None:
        """The next frame; ``None`` at the end of the stream.

        Raises:
            FrameError: it is too long.
            TimedOut: none came in time.
        """
        try:
            with anyio.fail_after(self.patience if timeout is None else timeout):
                frame = await self._reader.frame(frames.MAX_MESSAGE)
        except TimeoutError as error:
            raise TimedOut("the receiver does not answer", hint="try again") from error
        except anyio.IncompleteRead as error:
            raise FrameError("an answer that is cut short") from error
        self._progress += 1
        return frame

    async def exchange(self, send: Callable[[], Awaitable[None]]) -> Frame | None:
        """Sends until everything is sent, or an answer comes; returns the answer.

        Raises:
            TimedOut: the receiver neither takes bytes nor answers.
        """
        found: list[Frame | None] = []
        failures: list[Exception] = []

        async def run(step: Callable[[], Awaitable[object]], tasks: anyio.abc.TaskGroup) -> None:
            try:
                await step()
            except Exception as error:
                failures.append(error)
                tasks.cancel_scope.cancel()

        async def listen() -> None:
            found.append(await self.answer(float("inf")))
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for step in (listen, send, self._watch):
                tasks.start_soon(run, step, tasks)
        if found:
            # Why sending failed does not matter beside the answer.
            return found[0]
        raise failures[0]

    async def _watch(self) -> None:
        while True:
            before = self._progress
            await anyio.sleep(self.patience)
            if self._progress == before:
                raise TimedOut("the receiver takes no more data", hint="try again: it resumes")
