"""Joins two byte streams, so that each sends what the other receives.

It keeps half-close: the end of one direction ends that direction of the other stream only. If both
sides are sockets, the kernel moves the bytes (splice(2)) through a pipe that is held only while
there are any; otherwise they are copied. Connections, and those of one target, are bounded, and one
that is silent for too long is reset. It must not know what the bytes mean.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.lowlevel
import msgspec
from anyio.abc import ByteStream, SocketAttribute

from pilotstack._serving import join_address
from pilotstack.client import Stream
from pilotstack.errors import PilotError, StreamBroken, Throttled
from pilotstack.services.local import LocalStream, close_gently, connect
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    import socket as sockets
    from collections.abc import AsyncIterator, Hashable, Iterator
    from types import TracebackType

    from pilotstack.client import Driver

#: Bytes of a pipe, and moved at once.
_PIPE: Final = 1 << 18
#: Empty pipes that are kept for the next transfer.
_SPARE: Final = 16
#: Moves after which other tasks get a turn.
_MOVES: Final = 4
#: Seconds without a byte in either direction after which a connection is reset (RFC 5382, REQ-5).
IDLE: Final = 7440.0
#: How often silent connections are looked for, in a share of that time.
_LOOKS: Final = 8
#: Connections to one target at most, in a share of all.
_SHARE: Final = 4

_NONBLOCK: Final = getattr(os, "SPLICE_F_NONBLOCK", 0)


@dataclass(slots=True, eq=False)
class Flow:
    """One connection: what it carried, and why it broke, if it did."""

    number: int
    sent: int = 0
    received: int = 0
    reason: str | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    #: Bytes when it was last looked at, and how often nothing had changed since.
    seen: int = -1
    silent_looks: int = 0


class Pipes:
    """Pipes of the kernel that bytes are moved through; all are empty when they are here."""

    def __init__(self) -> None:
        self._spare: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """An empty pipe.

        Raises:
            OSError: no descriptor is left.
        """
        if self._spare:
            return self._spare.pop()
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A user has a limit for all pipes; a small one works as well.
        with suppress(OSError):
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE)
        return ends

    def give(self, pipe: tuple[int, int], is_empty: bool) -> None:
        """Takes one back."""
        if is_empty and len(self._spare) < _SPARE:
            self._spare.append(pipe)
            return
        for end in pipe:
            os.close(end)

    def close(self) -> None:
        """Closes them."""
        while self._spare:
            for end in self._spare.pop():
                os.close(end)


class Opened(msgspec.Struct, tag="opened", tag_field="type", frozen=True):
    """A connection began."""

    id: int
    peer: str
    target: str


class Closed(msgspec.Struct, tag="closed", tag_field="type", frozen=True):
    """One ended; without a reason, both sides had finished."""

    id: int
    sent: int
    received: int
    reason: str | None


class Refused(msgspec.Struct, tag="refused", tag_field="type", frozen=True):
    """There was no connection, or no answer to a datagram, for this reason."""

    peer: str
    target: str
    code: str
    message: str


#: An agent's port.
Named = SocketAddress | tuple[Address | str, int]
OnEvent = Callable[[Opened | Closed | Refused], object]


def ignore(event: Opened | Closed | Refused) -> None:
    """Tells nobody."""
    del event


class Relays:
    """The connections of a gateway, proxy or forward; an async context manager that the tasks
    which use them are within.

    Args:
        limit: of connections.
        idle: seconds without a byte after which one is reset.
    """

    def __init__(self, limit: int, idle: float = IDLE) -> None:
        self.limit = limit
        #: What was refused, by reason.
        self.refused: Counter[str] = Counter()
        #: Connections so far.
        self.total = 0
        #: Bytes that ended ones have sent and received.
        self._carried = (0, 0)
        self._idle = idle
        self._flows: set[Flow] = set()
        self._targets: Counter[Hashable] = Counter()
        self._pipes = Pipes()
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._pipes.close()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes sent and received, by all connections."""
        sent, received = self._carried
        return (
            sent + sum(flow.sent for flow in self._flows),
            received + sum(flow.received for flow in self._flows),
        )

    @contextmanager
    def admitted(self, target: Hashable) -> Iterator[Flow]:
        """Counts a connection while the context lasts.

        Raises:
            Throttled: there are too many, in all or to this target.
        """
        if len(self._flows) >= self.limit:
            self.refused["limit"] += 1
            raise Throttled(f"{self.limit} connections are open, the most there may be")
        if self._targets[target] >= max(1, self.limit // _SHARE):
            self.refused["target_limit"] += 1
            raise Throttled(f"too many connections to {target} are open")
        self.total += 1
        flow = Flow(self.total)
        self._flows.add(flow)
        self._targets[target] += 1
        try:
            yield flow
        finally:
            self._carried = self._carried[0] + flow.sent, self._carried[1] + flow.received
            self._flows.discard(flow)
            self._targets[target] -= 1
            if not self._targets[target]:
                del self._targets[target]

    async def _look(self) -> None:
        """Ends connections that carry nothing."""
        while True:
            await anyio.sleep(self._idle / _LOOKS)
            for flow in self._flows:
                count = flow.sent + flow.received
                flow.silent_looks = flow.silent_looks + 1 if count == flow.seen else 0
                flow.seen = count
                if flow.silent_looks >= _LOOKS:
                    flow.reason = "idle"
                    flow.scope.cancel()

    async def join(self, flow: Flow, local: ByteStream, remote: ByteStream) -> None:
        """Copies both ways until both directions ended, or one broke: then ``flow.reason`` says
        why. The caller closes both streams."""

        async def run(source: ByteStream, sink: ByteStream, is_upward: bool) -> None:
            try:
                await self._pump(flow, source, sink, is_upward)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                if flow.reason is None:
                    flow.reason = error.reason if isinstance(error, StreamBroken) else "reset"
                flow.scope.cancel()

        has_ended = False
        try:
            with flow.scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run, local, remote, True)
                    await run(remote, local, False)
                has_ended = True
        finally:
            if not has_ended and flow.reason is None:
                flow.reason = "stopped"

    async def _pump(
        self, flow: Flow, source: ByteStream, sink: ByteStream, is_upward: bool
    ) -> None:
        inward, outward = _socket_of(source), _socket_of(sink)
        try:
            if inward is not None and outward is not None and hasattr(os, "splice"):
                try:
                    await self._move(flow, inward, outward, is_upward)
                except _SourceBroken as error:
                    # The system says so once: after that, its end looks like any.
                    if isinstance(source, LocalStream):
                        raise anyio.BrokenResourceError from error
            # The stream knows what its end means, and there may be no pipe.
            while True:
                data = await source.receive()
                await sink.send(data)
                _count(flow, len(data), is_upward)
        except anyio.EndOfStream:
            await sink.send_eof()

    async def _move(
        self, flow: Flow, inward: sockets.socket, outward: sockets.socket, is_upward: bool
    ) -> None:
        """Moves bytes until the source has ended or broken, or no pipe can be had."""
        while True:
            await anyio.wait_readable(inward)
            try:
                pipe = self._pipes.take()
            except OSError:
                return
            held = moves = 0
            try:
                while True:
                    try:
                        held = os.splice(inward.fileno(), pipe[1], _PIPE, flags=_NONBLOCK)
                    except BlockingIOError:
                        break
                    except OSError as error:
                        raise _SourceBroken from error
                    if not held:
                        return
                    _count(flow, held, is_upward)
                    while held:
                        try:
                            held -= os.splice(pipe[0], outward.fileno(), held, flags=_NONBLOCK)
                        except BlockingIOError:
                            await anyio.wait_writable(outward)
                            moves = 0
                    moves += 1
                    if moves % _MOVES == 0:
                        await anyio.lowlevel.checkpoint()
            finally:
                self._pipes.give(pipe, is_empty=not held)


class _SourceBroken(Exception):
    """The system says that the source of bytes broke."""


def _count(flow: Flow, count: int, is_upward: bool) -> None:
    if is_upward:
        flow.sent += count
    else:
        flow.received += count


def _socket_of(stream: ByteStream) -> sockets.socket | None:
    """The socket of a stream that reads and writes nothing of its own."""
    if not isinstance(stream, LocalStream | Stream):
        return None
    found: sockets.socket | None = stream.extra(SocketAttribute.raw_socket, None)
    return found


class Carrier:
    """Carries local connections to agents, and streams of agents to local services.

    Args:
        driver: who dials.
        relays: where connections count.
        on_event: told of each.
    """

    def __init__(self, driver: Driver, relays: Relays, on_event: OnEvent = ignore) -> None:
        self.driver = driver
        self.relays = relays
        self._on_event = on_event

    @asynccontextmanager
    async def dialled(self, peer: str, target: Named) -> AsyncIterator[tuple[Flow, Stream]]:
        """A stream to an agent for a connection of ``peer``; it is closed at the end, and reset if
        ``flow.reason`` says why it broke.

        Raises:
            PilotError: there is none, for this reason.
        """
        name = name_of(target)
        with ExitStack() as stack:
            try:
                flow = stack.enter_context(self.relays.admitted(name))
                remote = await self.driver.dial(target, no_delay=True)
            except PilotError as error:
                self._on_event(Refused(peer, name, error.code, str(error)))
                raise
            self._on_event(Opened(flow.number, peer, name))
            try:
                yield flow, remote
            except BaseException:
                flow.reason = flow.reason or "stopped"
                raise
            finally:
                await self._end(flow, remote)

    async def outward(
        self,
        local: LocalStream,
        target: Named,
        *,
        early: bytes = b"",
        answer: Callable[[PilotError | None], bytes] | None = None,
    ) -> None:
        """Carries a local connection to an agent, and closes it.

        Args:
            early: what the local side has sent after its request.
            answer: what it is told before anything of the agent: that the stream is there, or why
                not. Unless given, it is reset if there is none.
        """
        try:
            async with self.dialled(local.peer, target) as (flow, remote):
                try:
                    if answer is not None:
                        await local.send(answer(None))
                    await remote.send(early)
                except anyio.BrokenResourceError:
                    flow.reason = "reset"
                else:
                    await self.relays.join(flow, local, remote)
                if flow.reason is None:
                    await local.aclose()
        except PilotError as error:
            if answer is not None:
                with suppress(anyio.BrokenResourceError):
                    await local.send(answer(error))
                    await close_gently(local)
        finally:
            local.reset()

    async def inward(self, remote: Stream, host: str, port: int) -> None:
        """Carries a stream of an agent to a local service, and closes it."""
        peer, name = str(remote.remote_address), join_address(host, port)
        try:
            with self.relays.admitted(remote.remote_address.address) as flow:
                local = await connect(host, port)
                self._on_event(Opened(flow.number, peer, name))
                try:
                    await self.relays.join(flow, local, remote)
                    if flow.reason is None:
                        await local.aclose()
                finally:
                    local.reset()
                    await self._end(flow, remote)
        except PilotError as error:
            self._on_event(Refused(peer, name, error.code, str(error)))
            await self._abort(remote)
        finally:
            with anyio.CancelScope(shield=True):
                await remote.aclose()

    async def _end(self, flow: Flow, remote: Stream) -> None:
        with anyio.CancelScope(shield=True):
            if flow.reason is not None:
                await self._abort(remote)
            await remote.aclose()
        self._on_event(Closed(flow.number, flow.sent, flow.received, flow.reason))

    async def _abort(self, remote: Stream) -> None:
        with suppress(PilotError, anyio.ClosedResourceError):
            await self.driver.abort(remote)


def name_of(target: Named) -> str:
    """A target as text."""
    if isinstance(target, SocketAddress):
        return str(target)
    host, port = target
    return f"{host}:{port}"
