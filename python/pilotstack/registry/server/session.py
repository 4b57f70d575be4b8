"""One connection: frames in, frames out, in order, within deadlines and a share of memory.

Deadlines of all connections are checked together once a second, since a timer for each would cost
as much as the request that it guards.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from pilotstack._resolving import source_of
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol import codec, framing
from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import Refusal
from pilotstack.registry.protocol.requests.replication import SubscribeReplication
from pilotstack.registry.protocol.requests.trust import PollHandshakes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.protocol.requests.base import Reply
    from pilotstack.registry.replication.primary import Publisher
    from pilotstack.registry.server.service import Service

#: Seconds from the connection to its first complete request, and from the first byte of any request
#: to its last, so that slow senders are disconnected.
FIRST_FRAME: Final = 30.0
#: Seconds without a request after which a connection is closed.
IDLE: Final = 300.0
#: Seconds for the client to read a reply.
WRITE: Final = 10.0
#: Bytes of an unfinished request that every connection may buffer; daemons never send more.
SMALL: Final = 4 << 10
#: Bytes of unfinished requests beyond that, of all connections.
LARGE_TOTAL: Final = 64 << 20
#: Bytes of replies that clients have not read, of all connections.
UNREAD_TOTAL: Final = 64 << 20
#: Interval in seconds of checking deadlines, and so their granularity.
TICK: Final = 1.0
#: Bytes read ahead while a reply is held.
_AHEAD: Final = 1 << 16
_READ: Final = 1 << 16


class Flood(Exception):
    """The client keeps sending after many refusals."""


class OutOfMemory(Exception):
    """All connections together buffer too much of unfinished requests, or of unread replies."""


class Memory:
    """A budget of bytes for the long requests, or long replies, of all connections. When it is used
    up, the session that holds most, of the source that holds most, is ended."""

    def __init__(self, limit: int = LARGE_TOTAL) -> None:
        self._free = limit
        self._shares: dict[Session, int] = {}
        self._by_source: Counter[str] = Counter()

    def hold(self, session: Session, share: int) -> None:
        """Sets how much a session holds.

        Raises:
            OutOfMemory: it is the session that has to end.
        """
        more = share - self._shares.get(session, 0)
        while more > self._free:
            source = max(self._by_source, key=self._by_source.__getitem__, default="")
            own = self._by_source[session.source] + more
            if not source or own >= self._by_source[source]:
                source = session.source
            rivals = [other for other in self._shares if other.source == source]
            longest = max(rivals, key=self._shares.__getitem__, default=session)
            if longest is session or (source == session.source and self._shares[longest] <= share):
                raise OutOfMemory
            self._set(longest, 0)
            longest.starve()
        self._set(session, share)

    def _set(self, session: Session, share: int) -> None:
        more = share - self._shares.pop(session, 0)
        if share:
            self._shares[session] = share
        self._free -= more
        self._by_source[session.source] += more
        if not self._by_source[session.source]:
            del self._by_source[session.source]


class Watch:
    """Ends sessions whose deadline has passed."""

    def __init__(self) -> None:
        #: The time of the last check, by :func:`anyio.current_time`.
        self.now = anyio.current_time()
        self._sessions: set[Session] = set()

    def add(self, session: Session) -> None:
        """Starts checking a session."""
        self._sessions.add(session)

    def remove(self, session: Session) -> None:
        """Stops checking a session."""
        self._sessions.discard(session)

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            await anyio.sleep(TICK)
            self.now = anyio.current_time()
            for session in self._sessions:
                if session.deadline <= self.now:
                    session.expire()


class Session:
    """Serves one connection.

    Args:
        stream: the connection.
        host: the client's IP address.
        port: the client's port.
        memory: budget of unfinished requests.
        unread: budget of unread replies.
        on_proof: called after requests, once one on this connection was signed.
    """

    def __init__(
        self,
        stream: anyio.abc.ByteStream,
        host: str,
        port: int,
        *,
        service: Service,
        publisher: Publisher,
        memory: Memory,
        watch: Watch,
        unread: Memory | None = None,
        on_proof: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_proof = on_proof
        self._stream = stream
        self._source = Source(host, port, is_shared=service.throttle.is_shared(host))
        self._service = service
        self._publisher = publisher
        self._memory = memory
        self._unread = unread or Memory(UNREAD_TOTAL)
        self._allowance = service.throttle.connection(host, time.monotonic())
        self._framer = framing.Framer()
        self._share = 0
        self._watch = watch
        self._scope = anyio.CancelScope()
        self._is_late = self._is_starved = False
        #: Source of the connection, as limits count it.
        self.source = source_of(host)[0]
        #: Time at which the session ends unless it makes progress.
        self.deadline = math.inf

    def expire(self) -> None:
        """Ends the session because its deadline has passed."""
        self._is_late = True
        self._scope.cancel()

    def starve(self) -> None:
        """Ends the session because another needs its memory."""
        self._is_starved = True
        self._scope.cancel()

    async def run(self) -> None:
        """Answers until the client closes the connection.

        Raises:
            ProtocolError: the client sent no request.
            TimeoutError: a deadline passed.
            Flood: the client ignores refusals.
            OutOfMemory: there is no room for a long request or reply.
            OSError, anyio.EndOfStream, anyio.BrokenResourceError: the connection ended.
        """
        self._watch.add(self)
        try:
            with self._scope:
                await self._converse()
            if self._is_starved:
                raise OutOfMemory
            if self._is_late:
                raise TimeoutError
        finally:
            self._watch.remove(self)
            self._memory.hold(self, 0)
            self._unread.hold(self, 0)
            self._service.left(self._source)

    async def _converse(self) -> None:
        patience = FIRST_FRAME
        while True:
            body = await self._next_body(patience)
            request = codec.decode(body)
            if isinstance(request, SubscribeReplication):
                # Refused and closed, or a stream until the end.
                await self._subscribe(request)
                return
            reply = await self._service.answer(request, self._source, self._allowance)
            if isinstance(request, PollHandshakes):
                reply = await self._hold(request, reply)
            if self._source.proven:
                self._on_proof()
            await self._send(reply)
            if self._allowance.is_spent:
                raise Flood
            patience = IDLE

    async def _subscribe(self, request: SubscribeReplication) -> None:
        service, is_wrong = self._service, self._publisher.is_wrong(request)
        service.notice(request)
        if text := service.try_secret(request, self._source, is_wrong=is_wrong):
            await self._send(Refusal(error=text, code=Code.RATE_LIMITED))
            return
        if not is_wrong:
            self._on_proof()
        await self._publisher.serve(self._stream, request)

    def _within(self, seconds: float) -> float:
        """A deadline from now; up to a tick late, never early."""
        return self._watch.now + seconds + TICK

    async def _next_body(self, patience: float) -> bytes:
        framer = self._framer
        self.deadline = self._within(patience)
        while (body := framer.next_body()) is None:
            if framer.pending:
                # A request that has begun has to end.
                self.deadline = min(self.deadline, self._within(FIRST_FRAME))
            framer.feed(await self._stream.receive(_READ))
            if self._share or framer.pending > SMALL:
                self._account()
        self.deadline = math.inf
        if self._share:
            self._account()
        return body

    async def _read(self) -> None:
        self._framer.feed(await self._stream.receive(_READ))
        self._account()

    def _account(self) -> None:
        share = max(0, self._framer.pending - SMALL)
        if share != self._share and not self._is_starved:
            self._memory.hold(self, share)
            self._share = share

    async def _send(self, reply: Reply) -> None:
        self.deadline = self._within(WRITE)
        frame = framing.encode(reply, self._service.standing.stamp)
        if len(frame) <= SMALL:
            await self._stream.send(frame)
            return
        self._unread.hold(self, len(frame) - SMALL)
        await self._stream.send(frame)
        if not self._is_starved:
            self._unread.hold(self, 0)

    async def _hold(self, request: PollHandshakes, reply: Reply) -> Reply:
        """Holds an empty reply back until the node is woken. Notices meanwhile if the client
        disconnects, so that messages stay for its next connection."""
        seconds = self._service.holding(request, reply)
        if seconds <= 0:
            return reply
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_ahead)
            await self._service.waiters.wait(request.node_id, seconds)
            tasks.cancel_scope.cancel()
        return await self._service.answer(request, self._source, self._allowance)

    async def _read_ahead(self) -> None:
        while self._framer.pending < _AHEAD:
            await self._read()
