"""The primary's side of replication (whitepaper, hot standby; registry sheet 4.4).

A standby subscribes with a token and is sent the whole state, then every change as it becomes
durable, and a sign of life in between::

    -> {"type": "subscribe_replication", "token": T, "deltas": 1, "epoch": E, "seq": N}
    <- {"type": "replication_snapshot_part", "text": "..."}            one or more, in order
    <- {"type": "replication_snapshot_end", "epoch": E, "seq": N, "term": M}
    <- {"type": "replication_delta", "epoch": E, "seq": N + 1, "changes": [...]}
    <- {"type": "heartbeat", "epoch": E, "seq": N + 1}

``deltas`` is what makes us answer like this; whoever does not send it, as older standbys, gets
``{"type": "replication_snapshot", "snapshot": {...}}`` at first and after changes, at most once a
second, and bare heartbeats. ``epoch`` names one life of a primary, ``seq`` counts its deltas: with
both, a standby that comes back soon is sent only what it missed.

A push never waits for a standby: each has a queue, and one whose queue is full is sent a snapshot.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import structlog

from pilotstack.registry import messages
from pilotstack.registry.records import encode_change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.ledger import Ledger
    from pilotstack.registry.messages import Message
    from pilotstack.registry.records import Change
    from pilotstack.registry.snapshot import View

log = structlog.get_logger(__name__)

#: Seconds between signs of life; standbys give up after 45 without (sheet 4.4).
HEARTBEAT: Final = 15.0
#: Seconds for a standby to take a frame.
WRITE: Final = 10.0
#: Seconds between snapshots for a standby that knows nothing else.
SNAPSHOT_EVERY: Final = 1.0
#: Octets of deltas that wait for a standby, and that are kept for one that comes back.
QUEUE: Final = 8 << 20
#: Changes in a delta.
DELTA: Final = 1000
#: Octets of a snapshot in a frame, about.
PART: Final = 1 << 18


class Log:
    """The last deltas as frames, numbered."""

    def __init__(self, limit: int = QUEUE) -> None:
        #: Names this life of the primary.
        self.epoch = secrets.token_hex(8)
        #: Number of the last delta.
        self.seq = 0
        self._limit = limit
        self._frames: deque[bytes] = deque()
        self._size = 0

    def add(self, changes: Sequence[Change]) -> bytes:
        """Numbers changes and keeps their frame, which it returns."""
        self.seq += 1
        frame = messages.encode(
            {
                "type": "replication_delta",
                "epoch": self.epoch,
                "seq": self.seq,
                "changes": [encode_change(change) for change in changes],
            }
        )
        self._frames.append(frame)
        self._size += len(frame)
        while self._size > self._limit and len(self._frames) > 1:
            self._size -= len(self._frames.popleft())
        return frame

    def since(self, epoch: str, seq: int) -> list[bytes] | None:
        """The frames after ``seq``; ``None`` if they are not all there."""
        missed = self.seq - seq
        if epoch != self.epoch or not 0 <= missed <= len(self._frames):
            return None
        return list(self._frames)[len(self._frames) - missed :]


class _Subscriber:
    """What waits for one standby."""

    def __init__(self, *, takes_deltas: bool) -> None:
        self.takes_deltas = takes_deltas
        self.frames: deque[bytes] = deque()
        self.size = 0
        #: It has to be sent the whole state.
        self.is_behind = True
        self.something = anyio.Event()

    def push(self, frame: bytes) -> None:
        """Takes a delta, or gives up on deltas."""
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
        """Forgets what waits."""
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
    """Serves standbys; a :class:`~pilotstack.registry.ledger.Sink`.

    Args:
        ledger: what is replicated.
        token: what a standby has to show; empty means that none is served.
        is_open: standbys are served without a token, as first-generation ones have none.
        term: how often a standby has become the primary before this one.
    """

    def __init__(
        self, ledger: Ledger, *, token: str = "", is_open: bool = False, term: int = 0
    ) -> None:
        self._ledger = ledger
        self._token = token
        self._is_open = is_open
        self.term = term
        self.log = Log()
        self._subscribers: set[_Subscriber] = set()

    @property
    def is_enabled(self) -> bool:
        """Whether there may be standbys."""
        return self._is_open or bool(self._token)

    @property
    def standbys(self) -> int:
        """How many follow."""
        return len(self._subscribers)

    def publish(self, changes: Sequence[Change]) -> None:
        """Passes changes on."""
        if not self.is_enabled:
            return
        for start in range(0, len(changes), DELTA):
            frame = self.log.add(changes[start : start + DELTA])
            for subscriber in self._subscribers:
                subscriber.push(frame)

    def _refusal(self, request: Message) -> str:
        if not self.is_enabled:
            return "replication not configured"
        shown = messages.text(request, "token")
        if self._token:
            is_right = hmac.compare_digest(shown.encode(), self._token.encode())
            return "" if is_right or (self._is_open and not shown) else "invalid replication token"
        return ""

    async def serve(self, stream: anyio.abc.ByteStream, request: Message) -> None:
        """Feeds a standby until its connection ends, which it may at any time.

        Raises:
            TimeoutError: it does not take what it is sent.
            OSError, anyio.EndOfStream, anyio.BrokenResourceError: the connection ended.
        """
        if text := self._refusal(request):
            log.warning("standby_refused", reason=text)
            await _send(stream, messages.encode({"type": "error", "error": text}))
            return
        subscriber = _Subscriber(takes_deltas=messages.number(request, "deltas") >= 1)
        missed = self.log.since(
            messages.text(request, "epoch"), messages.number(request, "seq", 63)
        )
        if missed is not None and subscriber.takes_deltas:
            subscriber.is_behind = False
            for frame in missed:
                subscriber.push(frame)
        self._subscribers.add(subscriber)
        log.info("standby_joined", deltas=subscriber.takes_deltas, resumes=missed is not None)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_closed, stream)
                await self._feed(subscriber, stream)
        except* (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as group:
            log.info("standby_left", reason=type(group.exceptions[0]).__name__)
        finally:
            self._subscribers.discard(subscriber)

    async def _feed(self, subscriber: _Subscriber, stream: anyio.abc.ByteStream) -> None:
        while True:
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
        heartbeat: dict[str, Any] = {"type": "heartbeat"}
        if subscriber.takes_deltas:
            heartbeat |= {"epoch": self.log.epoch, "seq": self.log.seq}
        return messages.encode(heartbeat)

    async def _send_snapshot(self, subscriber: _Subscriber, stream: anyio.abc.ByteStream) -> None:
        # Taken together, so that the next delta is the first that the view lacks.
        view, seq = self._ledger.durable_view(), self.log.seq
        subscriber.is_behind = False
        if not subscriber.takes_deltas:
            await _send(stream, await anyio.to_thread.run_sync(_whole, view))
            await anyio.sleep(SNAPSHOT_EVERY)
            return
        for frame in await anyio.to_thread.run_sync(_parts, view):
            await _send(stream, frame)
        end = {"epoch": self.log.epoch, "seq": seq, "term": self.term}
        await _send(stream, messages.encode({"type": "replication_snapshot_end", **end}))


def _whole(view: View) -> bytes:
    snapshot = msgspec.Raw(b"".join(view.chunks()))
    return messages.encode({"type": "replication_snapshot", "snapshot": snapshot})


def _parts(view: View) -> list[bytes]:
    frames: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for chunk in view.chunks():
        part.append(chunk)
        size += len(chunk)
        if size >= PART:
            frames.append(_part(part))
            part, size = [], 0
    frames.append(_part(part))
    return frames


def _part(chunks: list[bytes]) -> bytes:
    message: dict[str, Any] = {
        "type": "replication_snapshot_part",
        "text": b"".join(chunks).decode(),
    }
    return messages.encode(message)


async def _send(stream: anyio.abc.ByteStream, frame: bytes) -> None:
    # A long frame gets the time that a slow link needs for it.
    with anyio.fail_after(WRITE + len(frame) / (1 << 20)):
        await stream.send(frame)


async def _until_closed(stream: anyio.abc.ByteStream) -> None:
    """A standby never says anything; its silence ends with the connection."""
    while True:
        await stream.receive(1 << 10)
