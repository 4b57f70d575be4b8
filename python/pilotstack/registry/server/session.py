"""One connection: frames in, frames out, in order, within deadlines and a share of memory.

Deadlines are looked at once a second for all connections together: a timer for each would cost as
much as the request it guards.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from pilotstack.registry.model.source import Source, source_of
from pilotstack.registry.protocol import framing, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.replication.primary import Publisher
    from pilotstack.registry.server.service import Service

#: Seconds from the connection to its first whole request, and from the first octet of any request
#: to its last: whoever sends drop by drop does not keep a place.
FIRST_FRAME: Final = 30.0
#: Seconds between requests after which a connection is closed (sheet 1.1).
IDLE: Final = 300.0
#: Seconds for the other side to take a reply.
WRITE: Final = 10.0
#: Bytes of an unfinished request that any connection may hold: all that daemons send fits.
SMALL: Final = 4 << 10
#: Bytes of unfinished requests beyond that, of all connections together.
LARGE_TOTAL: Final = 64 << 20
#: Bytes of replies that wait for their askers to take them, of all connections together.
UNREAD_TOTAL: Final = 64 << 20
#: Seconds between two looks at the deadlines, and so the grain of them.
TICK: Final = 1.0
#: Octets read ahead while a reply is held.
_AHEAD: Final = 1 << 16
_READ: Final = 1 << 16


class Flood(Exception):
    """The other side goes on after many refusals."""


class OutOfMemory(Exception):
    """All connections together hold too much of requests that do not end, or of replies that nobody
    takes."""


class Memory:
    """The bytes that all connections may hold of long requests, or of long replies. When there are
    no more, the longest of the source that holds most gives way."""

    def __init__(self, limit: int = LARGE_TOTAL) -> None:
        self._free = limit
        self._shares: dict[Session, int] = {}
        self._by_source: Counter[str] = Counter()

    def hold(self, session: Session, share: int) -> None:
        """Notes how much a session holds now.

        Raises:
            OutOfMemory: it is the one that gives way.
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
    """Ends the sessions whose deadline has passed."""

    def __init__(self) -> None:
        #: The time at the last look, as :func:`anyio.current_time` has it.
        self.now = anyio.current_time()
        self._sessions: set[Session] = set()

    def add(self, session: Session) -> None:
        """Looks at a session from now on."""
        self._sessions.add(session)

    def remove(self, session: Session) -> None:
        """Looks at it no more."""
        self._sessions.discard(session)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await anyio.sleep(TICK)
            self.now = anyio.current_time()
            for session in self._sessions:
                if session.deadline <= self.now:
                    session.expire()


class Session:
    """Serves one connection.

    Args:
        stream: where it reads and writes.
        host: the other side's IP address.
        port: and its port.
        memory: of unfinished requests.
        unread: of replies that are not taken.
        on_proof: called after requests of a connection on which somebody signed something.
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
        #: Whose connection it is, as limits have it.
        self.source = source_of(host)[0]
        #: When this session ends unless something happens.
        self.deadline = math.inf

    def expire(self) -> None:
        """Ends the session: what should have happened did not."""
        self._is_late = True
        self._scope.cancel()

    def starve(self) -> None:
        """Ends the session: somebody else has its memory."""
        self._is_starved = True
        self._scope.cancel()

    async def run(self) -> None:
        """Answers until the other side closes.

        Raises:
            ProtocolError: what came is no request.
            TimeoutError: a deadline passed.
            Flood: refusals do not stop the other side.
            OutOfMemory: there is no room for its long request, or its long reply.
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
            request = framing.decode(body)
            if request.get("type") == "subscribe_replication":
                # It is refused and closed, or stays.
                await self._subscribe(request)
                return
            reply = await self._service.answer(request, self._source, self._allowance)
            if "wait" in request:
                reply = await self._hold(request, reply)
            if self._source.proven:
                self._on_proof()
            await self._send(reply)
            if self._allowance.is_spent:
                raise Flood
            patience = IDLE

    async def _subscribe(self, request: Message) -> None:
        service, is_wrong = self._service, self._publisher.is_wrong(request)
        service.notice(request)
        if text := service.try_secret(request, self._source, is_wrong=is_wrong):
            await self._send({"type": "error", "error": text})
            return
        if not is_wrong:
            self._on_proof()
        await self._publisher.serve(self._stream, request)

    def _within(self, seconds: float) -> float:
        """The deadline for something that begins now; up to a tick late, never early."""
        return self._watch.now + seconds + TICK

    async def _next_body(self, patience: float) -> bytes:
        framer = self._framer
        self.deadline = self._within(patience)
        while (body := framer.next_body()) is None:
            if framer.pending:
                # It has begun, and has to end.
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

    async def _send(self, reply: Message) -> None:
        self.deadline = self._within(WRITE)
        frame = framing.encode(reply)
        if len(frame) <= SMALL:
            await self._stream.send(frame)
            return
        self._unread.hold(self, len(frame) - SMALL)
        await self._stream.send(frame)
        if not self._is_starved:
            self._unread.hold(self, 0)

    async def _hold(self, request: Message, reply: Message) -> Message:
        """Waits for a wake-up if there is nothing in a reply yet, and meanwhile notices if the
        other side goes away: what it would have been given is then still there for its next
        connection."""
        seconds = self._service.holding(request, reply)
        if seconds <= 0:
            return reply
        node_id = values.number(request, "node_id")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_ahead)
            await self._service.waiters.wait(node_id, seconds)
            tasks.cancel_scope.cancel()
        return await self._service.answer(request, self._source, self._allowance)

    async def _read_ahead(self) -> None:
        while self._framer.pending < _AHEAD:
            await self._read()
