"""The data exchange of one node: stores files and messages of peers. Daemons offer it on port 1001.

Applications that want to see frames themselves use :func:`serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.services.data_exchange import frames
from pilotstack.services.data_exchange.frames import MESSAGES, Frame, FrameError, FrameType
from pilotstack.services.data_exchange.reader import Reader
from pilotstack.services.data_exchange.session import IDLE, Session
from pilotstack.services.data_exchange.stores import Stores

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pilotstack.client import Listener, Stream
    from pilotstack.services.data_exchange.inbox import InboxLimits
    from pilotstack.services.data_exchange.quota import Limits
    from pilotstack.types import SocketAddress

    #: Answers a frame of a peer, inside whatever tag it came; ``None`` answers nothing.
    Answering = Callable[[Frame, SocketAddress], Awaitable[Frame | None]]

__all__ = ["DataExchange", "serve"]

_SERVED: Final = MESSAGES | {FrameType.FILE}

#: Streams that :func:`serve` serves at once: each may hold a frame in memory.
MAX_STREAMS: Final = 16


class DataExchange:
    """Stores what peers send. An instance is a handler of streams; it is closed at the end.

    Args:
        home: files go to ``received`` in it, messages to ``inbox``; both are made when they are
            needed.
        limits: how much peers may store as files.
        inbox_limits: how much as messages.
        dropped: counts what was not stored, by reason.
    """

    def __init__(
        self,
        home: Path,
        *,
        limits: Limits | None = None,
        inbox_limits: InboxLimits | None = None,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._stores = Stores(home, limits=limits, inbox_limits=inbox_limits, counts=dropped)

    @property
    def dropped(self) -> Counter[str]:
        """What was not stored, by reason."""
        return self._stores.dropped

    async def __call__(self, stream: Stream) -> None:
        """Serves one stream, and closes it."""
        await Session(stream, stream.remote_address, self._stores).run()

    async def serve(self, listener: Listener) -> None:
        """Serves a listener until it is closed."""
        await listener.serve(self)

    def close(self) -> None:
        """Keeps unfinished files, and ends the threads; blocks while they write."""
        self._stores.close()


async def serve(listener: Listener, answer: Answering) -> None:
    """Gives frames of peers to an application, and sends its answers in the same order.

    Texts, bytes, JSON and files in one frame come to it; senders of others are told that they are
    not supported. Frames of more than 16 MiB end their stream.

    Args:
        answer: called with each frame, and who sent it.
    """
    seats = anyio.CapacityLimiter(MAX_STREAMS)

    async def handle(stream: Stream) -> None:
        async with stream, seats:
            reader = Reader(stream, IDLE)
            try:
                while (frame := await reader.frame(frames.MAX_MESSAGE)) is not None:
                    reply = await _answered(frame, stream.remote_address, answer)
                    if reply is not None:
                        await stream.send(frames.encode(reply.type, reply.payload))
            except FrameError as error:
                await stream.send(frames.encode(FrameType.TEXT, f"ERR {error}".encode()))
            except TimeoutError:
                pass

    await listener.serve(handle)


async def _answered(frame: Frame, peer: SocketAddress, answer: Answering) -> Frame | None:
    if frame.type == FrameType.TAGGED:
        head, payload = frames.split_tagged(frame.payload)
        frame = Frame(head.inner_type, payload)
    if frame.type not in _SERVED:
        return Frame(FrameType.TEXT, frames.unsupported(frame.type).encode())
    return await answer(frame, peer)
