"""A data exchange without a network, and files for it."""

from __future__ import annotations

import socket as sockets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from tests.unit.services.streams import Pipe, pipe

from pilotstack.client._stream import Stream, stream_of
from pilotstack.services.data_exchange import DataExchange, Exchange
from pilotstack.services.data_exchange.session import Session
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pilotstack.services.data_exchange import InboxLimits, Limits

PEER = SocketAddress(Address(0, 2), 49_152)


class _NoSession:
    """The session of streams that no daemon gave."""

    async def judge(self, connection_id: int, is_cut: bool, is_shut: bool) -> None:
        """Says nothing."""

    def plain(self) -> Any:
        """Is never called."""
        raise AssertionError("nobody makes them plain")

    def end(self) -> None:
        """Is never called."""
        raise AssertionError("nobody makes them plain")


def pair() -> tuple[Stream, Stream]:
    """Two ends of a stream that have sockets."""
    ends = sockets.socketpair()
    streams = [
        stream_of(end.detach(), number, PEER, PEER, _NoSession()) for number, end in enumerate(ends)
    ]
    return streams[0], streams[1]


class Service:
    """A data exchange that listens to nobody, until a pipe is given to it."""

    def __init__(self, tasks: anyio.abc.TaskGroup, home: Path, exchange: DataExchange) -> None:
        self._tasks = tasks
        self.exchange = exchange
        self.received = home / "received"
        self.inbox = home / "inbox"
        self.dials = 0
        self.pipes: list[anyio.abc.ByteStream] = []

    async def dial(self, peer: SocketAddress = PEER) -> Pipe:
        """A stream to it."""
        ours, theirs = pipe(dialler=peer)
        self.dials += 1
        self.pipes += [ours, theirs]
        session = Session(theirs, peer, self.exchange._stores)
        self._tasks.start_soon(_run, session)
        return ours

    async def dial_socket(self) -> Stream:
        """The same over a socket."""
        ours, theirs = pair()
        self.pipes += [ours, theirs]
        self._tasks.start_soon(_run, Session(theirs, PEER, self.exchange._stores))
        return ours

    def sender(self, peer: SocketAddress = PEER) -> Exchange:
        """What a peer sends with; to be entered."""
        return Exchange(lambda: self.dial(peer))

    def files(self) -> dict[str, bytes]:
        """What arrived, by name."""
        return {
            path.relative_to(self.received).as_posix(): path.read_bytes()
            for path in sorted(self.received.rglob("*"))
            if path.is_file() and not path.relative_to(self.received).parts[0].startswith(".")
        }

    def partials(self) -> list[str]:
        """What is unfinished."""
        return sorted(path.name for path in (self.received / ".partial").iterdir())

    def messages(self) -> list[bytes]:
        """The inbox's files."""
        return [path.read_bytes() for path in sorted(self.inbox.glob("*.json"))]


async def _run(session: Session) -> None:
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
        await session.run()


@asynccontextmanager
async def serving(
    home: Path, *, limits: Limits | None = None, inbox_limits: InboxLimits | None = None
) -> AsyncIterator[Service]:
    """A data exchange whose folders are in ``home``."""
    exchange = DataExchange(home, limits=limits, inbox_limits=inbox_limits)
    pipes: list[anyio.abc.ByteStream] = []
    try:
        async with anyio.create_task_group() as tasks:
            service = Service(tasks, home, exchange)
            pipes = service.pipes
            yield service
            tasks.cancel_scope.cancel()
    finally:
        exchange.close()
        with anyio.CancelScope(shield=True):
            for end in pipes:
                await end.aclose()
