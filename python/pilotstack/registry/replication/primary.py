"""The primary's side of replication; the protocol is in docs/reference/protocol/replication.md.

A standby subscribes with a token and is sent the whole state, then every change once it is durable,
and heartbeats in between::

    -> {"type": "subscribe_replication", "token": T, "deltas": 1, "epoch": E, "seq": N}
    <- {"type": "replication_snapshot_part", "text": "..."}            one or more, in order
    <- {"type": "replication_snapshot_end", "epoch": E, "seq": N, "cluster": C, "term": M,
        "time": T}
    <- {"type": "replication_delta", "epoch": E, "seq": N + 1, "changes": [...]}
    <- {"type": "heartbeat", "epoch": E, "seq": N + 1, "cluster": C, "term": M, "time": T}

Older standbys do not send ``deltas``; at first and after changes, at most once a second, they get
``{"type": "replication_snapshot", "snapshot": {...}}``, and bare heartbeats. ``epoch`` identifies
one run of a primary, ``seq`` counts its deltas: with both, a standby that reconnects soon is sent
only what it missed. ``cluster`` and ``term`` are in every frame; a standby of another cluster is
refused. ``time`` is the registry's, in seconds. Frames are bounded in bytes, whatever the state.

A push never waits for a standby: each has a queue, and one with a full queue is sent a snapshot.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from pilotstack import _events
from pilotstack.registry.model.budgets import LogLimit
from pilotstack.registry.model.rows import encode_change
from pilotstack.registry.protocol import framing
from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import Refusal
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.protocol.requests.replication import SubscribeReplication
    from pilotstack.registry.storage.ledger import Ledger
    from pilotstack.registry.storage.snapshot import View

log = _events.get_logger(__name__)

#: Interval of heartbeats, in seconds; standbys give up after 45 without one.
HEARTBEAT: Final = 15.0
#: Seconds for a standby to take a frame.
WRITE: Final = 10.0
#: Interval in seconds of snapshots for a standby that takes no deltas.
SNAPSHOT_EVERY: Final = 1.0
#: Bytes of deltas that wait for a standby, and that are kept for one that reconnects.
QUEUE: Final = 8 << 20
#: Bytes of changes in a delta, unless there is only one.
DELTA: Final = 1 << 18
#: Characters of a snapshot in a frame; encoded as JSON again they take up to four times as many
#: bytes.
PART: Final = 1 << 17
#: Bytes of a frame that standbys accept; a longer state is not sent as a whole.
FRAME: Final = 64 << 20
#: Parts that are encoded at a time, once the ones before have been sent.
_AT_ONCE: Final = 8
_ENVELOPE: Final = 1 << 10


class Log:
    """The last deltas as frames, numbered."""

    def __init__(self, limit: int = QUEUE, standing: Standing | None = None) -> None:
        #: Identifies this run of the primary.
        self.epoch = secrets.token_hex(8)
        #: Number of the last delta.
        self.seq = 0
        self._limit = limit
        self._standing = standing or Standing(Term(None))
        self._frames: deque[bytes] = deque()
        self._size = 0

    def add(self, changes: Sequence[Change]) -> list[bytes]:
        """Numbers changes; keeps and returns their frames."""
        encoded = [msgspec.json.encode(encode_change(change)) for change in changes]
        return [self._add(group) for group in _grouped(encoded, DELTA)]

    def _add(self, changes: list[bytes]) -> bytes:
        self.seq += 1
        frame = framing.encode(
            {
                "type": "replication_delta",
                "epoch": self.epoch,
                "seq": self.seq,
                "changes": msgspec.Raw(b"[%b]" % b",".join(changes)),
                **self._standing.members,
            }
        )
        self._frames.append(frame)
        self._size += len(frame)
        while self._size > self._limit and len(self._frames) > 1:
            self._size -= len(self._frames.popleft())
        return frame

    def since(self, epoch: str, seq: int) -> list[bytes] | None:
        """The frames after ``seq``; ``None`` if they are not all available."""
        missed = self.seq - seq
        if epoch != self.epoch or not 0 <= missed <= len(self._frames):
            return None
        return list(self._frames)[len(self._frames) - missed :]


class _Subscriber:
    """The queue of one standby."""

    def __init__(self, *, takes_deltas: bool) -> None:
        self.takes_deltas = takes_deltas
        self.frames: deque[bytes] = deque()
        self.size = 0
        #: It needs the whole state.
        self.is_behind = True
        self.something = anyio.Event()

    def push(self, frame: bytes) -> None:
        """Queues a delta, or marks the standby as behind."""
        if self.is_behind:
            return
        if not self.takes_deltas or self.size + len(frame) > QUEUE:
            self.is_behind = True
            self.clear()
        else:
            self.frames.append(frame)
            self.size += len(frame)
        self.something.set()

    def clear(self) -> None:
        """Empties the queue."""
        self.frames.clear()
        self.size = 0

    def take(self) -> bytes | None:
        """The next delta."""
        if not self.frames:
            return None
        frame = self.frames.popleft()
        self.size -= len(frame)
        return frame


class Publisher:
    """Serves standbys; a :class:`~pilotstack.registry.storage.ledger.Sink`.

    Args:
        ledger: what is replicated.
        token: the secret of standbys; without one, none is served.
        is_open: serve standbys without a token, as the first generation has none.
        standing: what the registry says of itself.
        clock: the registry's time.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        token: str = "",
        is_open: bool = False,
        standing: Standing | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock or Clock()
        self._token = token
        self._is_open = is_open
        self._standing = standing or Standing(Term(None))
        self.log = Log(standing=self._standing)
        self._subscribers: set[_Subscriber] = set()
        self._log_limit = LogLimit(time.monotonic())

    @property
    def is_enabled(self) -> bool:
        """Whether standbys are served."""
        return self._is_open or bool(self._token)

    @property
    def queued(self) -> int:
        """Bytes that wait for standbys."""
        return sum(subscriber.size for subscriber in self._subscribers)

    @property
    def standbys(self) -> int:
        """Number of standbys that follow."""
        return len(self._subscribers)

    def publish(self, changes: Sequence[Change]) -> None:
        """Sends changes to all standbys."""
        if not self.is_enabled:
            return
        for frame in self.log.add(changes):
            for subscriber in self._subscribers:
                subscriber.push(frame)

    def _refusal(self, request: SubscribeReplication) -> Refusal | None:
        if not self.is_enabled:
            return Refusal(error="replication not configured", code=Code.DENIED)
        if self._standing.is_replaced:
            return Refusal(error="this registry was replaced", code=Code.STANDBY)
        if self._standing.is_foreign(request.cluster):
            return Refusal(error="this registry belongs to another cluster", code=Code.FOREIGN)
        if not self._token or (self._is_open and not request.token) or self._is_right(request):
            return None
        return Refusal(error="invalid replication token", code=Code.DENIED)

    def _is_right(self, request: SubscribeReplication) -> bool:
        return hmac.compare_digest(request.token.encode(), self._token.encode())

    def is_wrong(self, request: SubscribeReplication) -> bool:
        """Whether a standby presents a wrong token."""
        return bool(self._token and request.token) and not self._is_right(request)

    async def serve(self, stream: anyio.abc.ByteStream, request: SubscribeReplication) -> None:
        """Feeds a standby until its connection ends.

        Raises:
            TimeoutError: it does not read what it is sent.
            OSError, anyio.EndOfStream, anyio.BrokenResourceError: the connection ended.
        """
        if refusal := self._refusal(request):
            unlogged = self._log_limit.take(time.monotonic())
            if unlogged is not None:
                log.security(
                    "standby_refused",
                    level=logging.WARNING,
                    reason=refusal.error,
                    unlogged=unlogged,
                )
            await _send(stream, framing.encode(refusal))
            return
        subscriber = _Subscriber(takes_deltas=request.deltas >= 1)
        missed = self.log.since(request.epoch, request.seq)
        if missed is not None and subscriber.takes_deltas:
            subscriber.is_behind = False
            for frame in missed:
                subscriber.push(frame)
        self._subscribers.add(subscriber)
        log.security("standby_joined", deltas=subscriber.takes_deltas, resumes=missed is not None)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_closed, stream)
                await self._feed(subscriber, stream)
        except* (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as group:
            log.info("standby_left", reason=type(group.exceptions[0]).__name__)
        finally:
            self._subscribers.discard(subscriber)

    async def _feed(self, subscriber: _Subscriber, stream: anyio.abc.ByteStream) -> None:
        while not self._standing.is_replaced:
            subscriber.something = anyio.Event()
            if subscriber.is_behind:
                await self._send_snapshot(subscriber, stream)
            elif frame := subscriber.take():
                await _send(stream, frame)
            else:
                with anyio.move_on_after(HEARTBEAT) as silence:
                    await subscriber.something.wait()
                if silence.cancelled_caught:
                    await _send(stream, self._heartbeat(subscriber))

    def _heartbeat(self, subscriber: _Subscriber) -> bytes:
        heartbeat: dict[str, object] = {"type": "heartbeat"}
        if subscriber.takes_deltas:
            heartbeat |= {"epoch": self.log.epoch, "seq": self.log.seq, "time": self._clock.now()}
            heartbeat |= self._standing.members
        return framing.encode(heartbeat)

    async def _send_snapshot(self, subscriber: _Subscriber, stream: anyio.abc.ByteStream) -> None:
        # Taken together, so that the next delta is the first that the view lacks.
        view, seq = self._ledger.durable_view(), self.log.seq
        subscriber.is_behind = False
        if not subscriber.takes_deltas:
            frame = await anyio.to_thread.run_sync(_whole, view)
            if frame is None:
                log.error("standby_refused", reason="the state does not fit into one frame")
                frame = framing.encode({"type": "error", "error": "snapshot too long"})
                await _send(stream, frame)
                raise anyio.EndOfStream
            await _send(stream, frame)
            await anyio.sleep(SNAPSHOT_EVERY)
            return
        frames = _parts(view)
        while some := await anyio.to_thread.run_sync(_next, frames):
            for frame in some:
                await _send(stream, frame)
        end = {"epoch": self.log.epoch, "seq": seq, "time": self._clock.now()}
        end |= self._standing.members
        await _send(stream, framing.encode({"type": "replication_snapshot_end", **end}))


def _next(frames: Iterator[bytes]) -> list[bytes]:
    return list(islice(frames, _AT_ONCE))


def _whole(view: View) -> bytes | None:
    """The frame of the whole state, if standbys accept one as long."""
    size, chunks = 0, []
    for chunk in view.chunks():
        size += len(chunk)
        if size > FRAME - _ENVELOPE:
            return None
        chunks.append(chunk)
    return framing.encode(
        {"type": "replication_snapshot", "snapshot": msgspec.Raw(b"".join(chunks))}
    )


def _parts(view: View) -> Iterator[bytes]:
    """The text of a snapshot in frames, however long its rows are."""
    waiting: list[str] = []
    size = 0
    for chunk in view.chunks():
        text = chunk.decode()
        for at in range(0, len(text), PART):
            piece = text[at : at + PART]
            if size + len(piece) > PART:
                yield _part(waiting)
                waiting, size = [], 0
            waiting.append(piece)
            size += len(piece)
    yield _part(waiting)


def _part(pieces: list[str]) -> bytes:
    return framing.encode({"type": "replication_snapshot_part", "text": "".join(pieces)})


def _grouped(items: list[bytes], limit: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for item in items:
        if group and size + len(item) > limit:
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item)
    if group:
        yield group


async def _send(stream: anyio.abc.ByteStream, frame: bytes) -> None:
    # Long frames get the time that a slow link needs.
    with anyio.fail_after(WRITE + len(frame) / (1 << 20)):
        await stream.send(frame)


async def _until_closed(stream: anyio.abc.ByteStream) -> None:
    """Returns when the standby closes the connection; it never sends anything."""
    while True:
        await stream.receive(1 << 10)
