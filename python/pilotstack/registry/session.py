"""One connection: frames in, frames out, in order, within deadlines and a share of memory.

Deadlines are looked at once a second for all connections together: a timer for each would cost as
much as the request it guards.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from pilotstack.registry import messages
from pilotstack.registry.state import Source

if TYPE_CHECKING:
    from pilotstack.registry.messages import Message
    from pilotstack.registry.replication import Publisher
    from pilotstack.registry.service import Service

#: Seconds from the connection to its first whole request, and from the first octet of any request
#: to its last: whoever sends drop by drop does not keep a place.
FIRST_FRAME: Final = 30.0
#: Seconds between requests after which a connection is closed (sheet 1.1).
IDLE: Final = 300.0
#: Seconds for the other side to take a reply.
WRITE: Final = 10.0
#: Octets of an unfinished request that any connection may hold.
SMALL: Final = 1 << 16
#: Octets of unfinished requests beyond that, of all connections together.
LARGE_TOTAL: Final = 64 << 20
#: Seconds between two looks at the deadlines, and so the grain of them.
TICK: Final = 1.0
#: Octets read ahead while a reply is held.
_AHEAD: Final = 1 << 16
_READ: Final = 1 << 16


class Flood(Exception):
    """The other side goes on after many refusals."""


class OutOfMemory(Exception):
    """All connections together hold too much of requests that do not end."""


class Memory:
    """The octets that all connections may hold of long requests."""

    def __init__(self, limit: int = LARGE_TOTAL) -> None:
        self._free = limit

    def take(self, octets: int) -> None:
        """Takes octets; a negative number gives them back.

        Raises:
            OutOfMemory: there are not enough.
        """
        if octets > self._free:
            raise OutOfMemory
        self._free -= octets


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
    ) -> None:
        self._stream = stream
        self._source = Source(host, port)
        self._service = service
        self._publisher = publisher
        self._memory = memory
        self._allowance = service.throttle.connection(host, time.monotonic())
        self._framer = messages.Framer()
        self._share = 0
        self._watch = watch
        self._scope = anyio.CancelScope()
        self._is_late = False
        #: When this session ends unless something happens.
        self.deadline = math.inf

    def expire(self) -> None:
        """Ends the session: what should have happened did not."""
        self._is_late = True
        self._scope.cancel()

    async def run(self) -> None:
        """Answers until the other side closes.

        Raises:
            ProtocolError: what came is no request.
            TimeoutError: a deadline passed.
            Flood: refusals do not stop the other side.
            OutOfMemory: there is no room for its long request.
            OSError, anyio.EndOfStream, anyio.BrokenResourceError: the connection ended.
        """
        self._watch.add(self)
        try:
            with self._scope:
                await self._converse()
            if self._is_late:
                raise TimeoutError
        finally:
            self._watch.remove(self)
            self._memory.take(-self._share)

    async def _converse(self) -> None:
        patience = FIRST_FRAME
        while True:
            body = await self._next_body(patience)
            request = messages.decode(body)
            if request.get("type") == "subscribe_replication":
                self._service.notice(request)
                await self._publisher.serve(self._stream, request)
                return
            await self._send(await self._answer(request))
            if self._allowance.is_spent:
                raise Flood
            patience = IDLE

    def _within(self, seconds: float) -> float:
        """The deadline for something that begins now; up to a tick late, never early."""
        return self._watch.now + seconds + TICK

    async def _next_body(self, patience: float) -> bytes:
        self.deadline = self._within(patience)
        while (body := self._framer.next_body()) is None:
            if self._framer.pending:
                # It has begun, and has to end.
                self.deadline = min(self.deadline, self._within(FIRST_FRAME))
            await self._read()
        self.deadline = math.inf
        self._account()
        return body

    async def _read(self) -> None:
        self._framer.feed(await self._stream.receive(_READ))
        self._account()

    def _account(self) -> None:
        share = max(0, self._framer.pending - SMALL)
        if share != self._share:
            self._memory.take(share - self._share)
            self._share = share

    async def _send(self, reply: Message) -> None:
        self.deadline = self._within(WRITE)
        await self._stream.send(messages.encode(reply))

    async def _answer(self, request: Message) -> Message:
        service = self._service
        reply = await service.answer(request, self._source, self._allowance)
        seconds = service.holding(request, reply)
        if seconds <= 0:
            return reply
        await self._hold(messages.number(request, "node_id"), seconds)
        return await service.answer(request, self._source, self._allowance)

    async def _hold(self, node_id: int, seconds: float) -> None:
        """Waits for a wake-up, and meanwhile notices if the other side goes away: what it would
        have been given is then still there for its next connection."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_ahead)
            await self._service.waiters.wait(node_id, seconds)
            tasks.cancel_scope.cancel()

    async def _read_ahead(self) -> None:
        while self._framer.pending < _AHEAD:
            await self._read()
