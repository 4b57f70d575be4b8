"""The event stream of one node: passes events from publishers to subscribers. Daemons offer it on
port 1002."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events
from pilotstack.services.budget import Budget, Full
from pilotstack.services.event_stream import control
from pilotstack.services.event_stream.broker import Blocked, Broker
from pilotstack.services.event_stream.codec import (
    RESERVED,
    Decoder,
    EventError,
    RawEvent,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from pilotstack.client import Listener, Stream
    from pilotstack.services.budget import Hold
    from pilotstack.services.event_stream.broker import Limits, Subscriber
    from pilotstack.types import SocketAddress

    #: Whether a peer may subscribe or publish to a topic.
    Policy = Callable[[SocketAddress, str], bool]

__all__ = ["EventStream"]

log = _events.get_logger(__name__)

#: Seconds for the subscription, and for a subscriber to take a batch.
FIRST: Final = 30.0
TAKE: Final = 30.0
#: Seconds for the rest of an event that has begun.
PART: Final = 300.0
#: Bytes of events that are not complete, in all connections and in those of one peer.
MAX_INCOMPLETE: Final = 128 << 20
MAX_INCOMPLETE_OF_PEER: Final = 32 << 20
_READ: Final = 1 << 18
_RESERVED: Final = RESERVED.encode()
_PUBLISHER: Final = control.PUBLISHER.encode()
_FLUSH: Final = control.FLUSH.encode()


def _anybody(peer: SocketAddress, topic: str) -> bool:
    del peer, topic
    return True


class EventStream:
    """A broker. An instance is a handler of streams.

    Args:
        limits: how much may wait for subscribers.
        may_subscribe: asked for each subscription; a stream that may not is closed.
        may_publish: asked for each topic of each connection; events of others are dropped.
        dropped: counts what was dropped, by reason.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        may_subscribe: Policy = _anybody,
        may_publish: Policy = _anybody,
        dropped: Counter[str] | None = None,
    ) -> None:
        self.broker = Broker(limits)
        self.may_subscribe = may_subscribe
        self.may_publish = may_publish
        #: What was dropped, by reason; beside ``lost`` events, of which the broker keeps count.
        self.dropped: Counter[str] = dropped if dropped is not None else Counter()
        self.broker.counts = self.dropped
        self._number = 0
        #: For events that are not complete.
        self.budget = Budget(MAX_INCOMPLETE, MAX_INCOMPLETE_OF_PEER)
        self._blocked = 0
        self._moved = anyio.Event()

    async def serve(self, listener: Listener) -> None:
        """Serves a listener until it is closed."""
        await listener.serve(self)

    async def __call__(self, stream: Stream) -> None:
        """Serves one stream, and closes it."""
        await self.handle(stream, stream.remote_address)

    async def handle(self, stream: ByteStream, peer: SocketAddress) -> None:
        """Serves a stream of a peer, and closes it.

        Raises:
            StreamBroken: the stream broke.
        """
        self._number += 1
        async with stream:
            with (
                anyio.CancelScope() as scope,
                self.budget.hold(peer.address.node, scope.cancel) as hold,
            ):
                await self._serve(_Connection(self, stream, peer, self._number, hold))
            if hold.is_given_up:
                self.dropped["busy"] += 1

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.run()
        except Full:
            self.dropped["busy"] += 1
        except EventError as error:
            self.dropped["malformed"] += 1
            log.debug("event_stream_ended", node=connection.peer.address.node, reason=str(error))
        except TimeoutError:
            self.dropped["silent"] += 1
        finally:
            connection.close()

    # For connections

    async def publish(self, topic: bytes, wire: bytes, number: int) -> None:
        """Publishes an event when subscribers have room for it."""
        broker = self.broker
        while isinstance(result := broker.publish(topic, wire, number), Blocked):
            await self._wait(result)
        for cursor in result:
            cursor.wake()

    async def _wait(self, blocked: Blocked) -> None:
        begin = anyio.current_time()
        self._blocked += 1
        try:
            with anyio.move_on_after(blocked.seconds):
                await self._moved.wait()
        finally:
            self._blocked -= 1
            self.broker.waited(blocked, anyio.current_time() - begin)

    def read(self, subscriber: Subscriber) -> tuple[bytes, int]:
        """The next events of a subscriber; publishers that wait for it look again."""
        found = self.broker.read(subscriber)
        if self._blocked:
            self._moved.set()
            self._moved = anyio.Event()
        return found

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Removes a subscriber; publishers that wait for it look again."""
        self.broker.unsubscribe(subscriber)
        self._moved.set()
        self._moved = anyio.Event()


class _Connection:
    def __init__(
        self,
        service: EventStream,
        stream: ByteStream,
        peer: SocketAddress,
        number: int,
        hold: Hold,
    ) -> None:
        self._service = service
        self._stream = stream
        self.peer = peer
        self._number = number
        self._decoder = Decoder(hold.take)
        self._subscriber: Subscriber | None = None
        #: The peer is one of ours, and is told of losses.
        self._is_ours = False
        self._wake = anyio.Event()
        self._writing = anyio.Lock()
        self._allowed: dict[bytes, bool] = {}
        self._published = 0
        self._refused = 0
        self._failure: Exception | None = None
        #: When the event that is not complete began, or a little later.
        self._part_since = 0.0

    def close(self) -> None:
        """Unsubscribes."""
        self._decoder.close()
        if self._subscriber is not None:
            self._service.unsubscribe(self._subscriber)
            self._subscriber = None

    async def run(self) -> None:
        """Serves until the peer ends the stream."""
        events = await self._first()
        if not events:
            return
        if not self._subscribe(events.pop(0)):
            self._service.dropped["denied"] += 1
            return
        async with anyio.create_task_group() as tasks:
            if self._subscriber is not None:
                tasks.start_soon(self._write, self._subscriber, tasks.cancel_scope)
            try:
                if self._subscriber is None and self._is_ours:
                    await self._tell(self._welcome())
                await self._read(events)
            except Exception as error:
                self._failure = error
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _first(self) -> list[RawEvent]:
        with anyio.fail_after(FIRST):
            events: list[RawEvent] = []
            while not events:
                try:
                    events = self._decoder.feed(await self._stream.receive(_READ))
                except anyio.EndOfStream:
                    return []
        return events

    def _subscribe(self, first: RawEvent) -> bool:
        self._is_ours = control.is_hello(first.payload)
        if first.topic == _PUBLISHER and self._is_ours:
            return True
        topic = text_of(first.topic)
        if not self._service.may_subscribe(self.peer, topic):
            return False
        self._subscriber = self._service.broker.subscribe(first.topic, self._number)
        self._subscriber.cursor.wake = self._woken
        log.debug("subscribed", node=self.peer.address.node, topic=topic)
        return True

    def _woken(self) -> None:
        self._wake.set()

    def _welcome(self) -> control.Welcome:
        limits = self._service.broker.limits
        return control.Welcome(limits.events, limits.bytes)

    async def _tell(self, message: control.Control) -> None:
        async with self._writing:
            with anyio.fail_after(TAKE):
                await self._stream.send(control.wire_of(message))

    # Events of the peer

    async def _read(self, events: list[RawEvent]) -> None:
        while True:
            for event in events:
                await self._publish(event)
            if events or self._decoder.is_empty:
                self._part_since = anyio.current_time()
            try:
                with anyio.fail_at(self._patience()):
                    data = await self._stream.receive(_READ)
            except anyio.EndOfStream:
                return
            events = self._decoder.feed(data)

    def _patience(self) -> float:
        """Until when more is waited for: what is not complete takes memory that others want."""
        if self._decoder.is_empty:
            return math.inf
        return min(anyio.current_time() + TAKE, self._part_since + PART)

    async def _publish(self, event: RawEvent) -> None:
        topic = event.topic
        if topic == _FLUSH and self._is_ours:
            asked = control.parse(control.FLUSH, event.payload)
            if isinstance(asked, control.Flush):
                told = control.Flushed(asked.number, self._published, self._refused)
                await self._tell(told)
            return
        if not self._may_publish(topic):
            self._refused += 1
            self._service.dropped["refused"] += 1
            return
        if self._subscriber is not None:
            self._subscriber.cursor.has_published = True
        await self._service.publish(topic, event.wire, self._number)
        self._published += 1

    def _may_publish(self, topic: bytes) -> bool:
        known = self._allowed.get(topic)
        if known is None:
            text = text_of(topic)
            is_free = not topic.startswith(_RESERVED)
            known = is_free and self._service.may_publish(self.peer, text)
            if len(self._allowed) < _MAX_KNOWN:
                self._allowed[topic] = known
        return known

    # Events for the peer

    async def _write(self, subscriber: Subscriber, scope: anyio.CancelScope) -> None:
        try:
            if self._is_ours:
                await self._tell(self._welcome())
            while True:
                # Made before the look: what comes after it must not be missed.
                self._wake = anyio.Event()
                data, lost = self._service.read(subscriber)
                if lost and self._is_ours:
                    total = subscriber.cursor.lost
                    data = control.wire_of(control.Lost(lost, total)) + data
                if not data:
                    await self._wake.wait()
                    continue
                async with self._writing:
                    with anyio.fail_after(TAKE):
                        await self._stream.send(data)
        except TimeoutError:
            # It takes nothing: it is removed, and can come back.
            self._service.dropped["stuck"] += 1
            scope.cancel()
        except Exception as error:
            self._failure = error
            scope.cancel()


#: Topics of a connection of which is remembered whether it may publish to them.
_MAX_KNOWN: Final = 256
