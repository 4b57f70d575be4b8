"""What subscribers and publishers use.

::

    async with events.subscribe(driver, "agent-b", "research.updates") as subscription:
        async for event in subscription:
            print(event.topic, event.text)

    async with events.publish_to(driver, "agent-b") as publisher:
        await publisher.publish("research.updates", b"new paper available")
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.abc

from pilotstack import wellknown
from pilotstack.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    NotRunning,
    StreamBroken,
    TimedOut,
)
from pilotstack.services.event_stream import control
from pilotstack.services.event_stream.codec import (
    RESERVED,
    Decoder,
    Event,
    EventError,
    encode,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from anyio.abc import ByteStream

    from pilotstack.client import Driver
    from pilotstack.types import Address

    Dial = Callable[[], Awaitable[ByteStream]]

__all__ = ["Publisher", "Subscription", "publish", "publish_to", "subscribe"]

_READ: Final = 1 << 18
#: Seconds before a subscription is tried again: at first, and at most. Each is shortened by up to a
#: half, so that subscribers of a broker that restarts do not come at once.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
#: What passes: the broker or a daemon starts again, or the path to it is lost.
_PASSING: Final = (anyio.BrokenResourceError, ConnectionFailed, NotFound, NotRunning, TimedOut)
#: Seconds after which a broker that does not welcome us is taken for an existing one.
WELCOME: Final = 1.0
#: What existing brokers take without dropping: events at once, and in a second after that.
BURST: Final = 100
RATE: Final = 100.0


def subscribe(
    driver: Driver,
    host: Address | str,
    topic: str,
    *,
    port: int = wellknown.EVENT_STREAM_PORT,
    reconnect: bool = False,
) -> Subscription:
    """The events of a topic at a node, from now on; iterate over it, or enter it first.

    Args:
        driver: of this node.
        host: address or hostname of the broker.
        topic: exactly this one; ``*`` for all.
        reconnect: subscribe again when the stream ends or breaks. With a driver that does so, too,
            it lasts over restarts of this node's daemon.
    """
    return Subscription(lambda: _dial(driver, host, port), topic, reconnect=reconnect)


def publish_to(
    driver: Driver, host: Address | str, *, port: int = wellknown.EVENT_STREAM_PORT
) -> Publisher:
    """Publishes at a node; to be entered."""
    return Publisher(lambda: _dial(driver, host, port))


async def publish(driver: Driver, host: Address | str, topic: str, payload: bytes | str) -> None:
    """Publishes one event, and returns when the broker has taken it, as far as that can be known.

    Raises:
        ConnectionFailed: the broker refuses it.
        InvalidArgument: topic or payload are too long.
    """
    async with publish_to(driver, host) as publisher:
        await publisher.publish(topic, payload)


async def _dial(driver: Driver, host: Address | str, port: int) -> ByteStream:
    return await driver.dial((host, port), no_delay=True)


class Subscription:
    """Events of one topic.

    Iterating waits for events, and ends when the broker ends the stream. A program that is too slow
    loses events, the oldest first; :attr:`lost` says how many, if the broker tells.

    One that subscribes again misses what is published meanwhile, and cannot know how much that is:
    :attr:`breaks` counts the gaps, and :attr:`on_break` is called at each.

    Args:
        dial: opens a stream to the broker.
        topic: exactly this one; ``*`` for all.
        reconnect: subscribe again when the stream ends or breaks, after pauses that grow. What the
            first attempt raises is raised.

    Raises:
        InvalidArgument: the topic is too long.
    """

    def __init__(self, dial: Dial, topic: str, *, reconnect: bool = False) -> None:
        self._dial = dial
        self._is_kept = reconnect
        self.topic = topic
        self._first = _checked(Event(topic, control.HELLO))
        self._stream: ByteStream | None = None
        self._decoder = Decoder()
        self._ready: deque[Event] = deque()
        self._is_welcome = False
        self._is_closed = False
        self._pause = FIRST_PAUSE
        self._lost_before = 0
        #: How often the stream ended or broke, and events may have been missed.
        self.breaks = 0
        #: Called at each of these, with what happened.
        self.on_break: Callable[[Exception], object] | None = None
        #: Events that the broker dropped because they were not taken in time.
        self.lost = 0
        #: Called with each report of lost events.
        self.on_lost: Callable[[control.Lost], object] | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _open(self) -> ByteStream:
        while self._stream is None:
            if self._is_closed:
                raise anyio.ClosedResourceError
            if not self.breaks:
                await self._subscribe()
                continue
            await anyio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            with suppress(*_PASSING):
                await self._subscribe()
        return self._stream

    async def _subscribe(self) -> None:
        stream = await self._dial()
        try:
            await stream.send(self._first)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
        self._stream = stream

    async def _broke(self, stream: ByteStream, why: Exception) -> None:
        """Notes a gap; the next read subscribes again."""
        self._stream, self._decoder = None, Decoder()
        self._is_welcome, self._lost_before = False, self.lost
        self.breaks += 1
        if self.on_break is not None:
            self.on_break(why)
        await stream.aclose()

    async def aclose(self) -> None:
        """Ends the subscription."""
        self._is_closed = True
        if self._stream is not None:
            await self._stream.aclose()

    async def confirmed(self, timeout: float = WELCOME) -> bool:
        """Waits until the subscription stands. Brokers of existing nodes do not tell: ``False``."""
        with anyio.move_on_after(timeout):
            while not self._is_welcome:
                await self._more()
        return self._is_welcome

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            while not self._ready:
                await self._more()
        except anyio.EndOfStream as error:
            raise StopAsyncIteration from error
        return self._ready.popleft()

    async def _more(self) -> None:
        stream = await self._open()
        try:
            data = await stream.receive(_READ)
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            if not self._is_kept:
                raise
            await self._broke(stream, error)
            return
        self._pause = FIRST_PAUSE
        try:
            for raw in self._decoder.feed(data):
                event = Event(text_of(raw.topic), raw.payload)
                if not event.topic.startswith(RESERVED):
                    self._ready.append(event)
                    continue
                self._told(control.parse(event.topic, event.payload))
        except EventError as error:
            await self.aclose()
            raise ConnectionFailed(
                f"the broker sent what is no event: {error}",
                hint="check that an event stream is served on this port",
            ) from error

    def _told(self, message: control.Control | None) -> None:
        match message:
            case control.Welcome():
                self._is_welcome = True
            case control.Lost():
                self.lost = self._lost_before + message.total
                if self.on_lost is not None:
                    self.on_lost(message)


class Publisher:
    """Publishes events on one stream; to be entered.

    The broker slows a publisher down when subscribers that keep up have no room. Brokers of
    existing nodes drop what comes too fast instead: they are not sent more than they take.

    Args:
        dial: opens a stream to the broker.
    """

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._stream: ByteStream
        self._tasks: anyio.abc.TaskGroup
        self._is_ours = anyio.Event()
        self._flushed: dict[int, control.Flushed] = {}
        self._answered = anyio.Event()
        self._failure: Exception | None = None
        self._is_over = False
        self._number = 0
        self._sent = 0
        #: Events whose refusal was told.
        self._refused = 0
        self._allowance = float(BURST)
        self._filled_at = 0.0

    async def __aenter__(self) -> Self:
        self._stream = await self._dial()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            await self._stream.send(encode(Event(control.PUBLISHER, control.HELLO)))
        except BaseException as error:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(type(error), error, error.__traceback__)
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise
        self._tasks.start_soon(self._drain)
        self._filled_at = anyio.current_time()
        with anyio.move_on_after(WELCOME):
            await self._is_ours.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            self._tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            await self._tasks.__aexit__(None, None, None)

    @property
    def has_flow_control(self) -> bool:
        """Whether the broker is one of ours, which confirms and slows down."""
        return self._is_ours.is_set()

    async def publish(self, topic: str, payload: bytes | str) -> None:
        """Sends one event; waits while the broker takes no more.

        Raises:
            InvalidArgument: topic or payload are too long, or the topic is reserved.
            StreamBroken: the broker is gone.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        wire = _checked(Event(topic, data))
        if topic.startswith(RESERVED):
            raise InvalidArgument(
                f"the topic is reserved: {topic!r}",
                hint=f"choose one that does not begin with {RESERVED}",
            )
        if not self.has_flow_control:
            await self._pace()
        self._check()
        await self._stream.send(wire)
        self._sent += 1

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_over:
            raise StreamBroken("the broker ended the stream", reason="reset")

    async def _pace(self) -> None:
        """Waits so that an existing broker drops nothing."""
        now = anyio.current_time()
        self._allowance = min(BURST, self._allowance + (now - self._filled_at) * RATE)
        self._filled_at = now
        self._allowance -= 1
        if self._allowance < 0:
            await anyio.sleep(-self._allowance / RATE)

    async def flush(self) -> None:
        """Returns when the broker has taken everything, if it tells.

        Raises:
            ConnectionFailed: it refused an event, because of its topic.
            StreamBroken: it is gone.
        """
        if not self.has_flow_control or not self._sent:
            return
        self._number += 1
        number = self._number
        await self._stream.send(control.wire_of(control.Flush(number)))
        while number not in self._flushed:
            self._check()
            await self._answered.wait()
        told = self._flushed.pop(number)
        refused, self._refused = told.refused - self._refused, told.refused
        if refused > 0:
            raise ConnectionFailed(
                f"the broker refused {refused} events",
                hint="their topic is not for this node",
                code="permission_denied",
            )

    async def _drain(self) -> None:
        """Reads what the broker sends: a publisher that does not would stop it."""
        decoder = Decoder()
        try:
            while True:
                for raw in decoder.feed(await self._stream.receive(_READ)):
                    self._told(control.parse(text_of(raw.topic), raw.payload))
        except anyio.EndOfStream:
            pass
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, EventError) as error:
            self._failure = error
        self._is_over = True
        self._answered.set()

    def _told(self, message: control.Control | None) -> None:
        match message:
            case control.Welcome():
                self._is_ours.set()
            case control.Flushed():
                if message.number == self._number:
                    self._flushed[message.number] = message
                self._answered.set()
                self._answered = anyio.Event()


def _checked(event: Event) -> bytes:
    try:
        return encode(event)
    except (EventError, UnicodeEncodeError) as error:
        raise InvalidArgument(
            str(error), hint="topics are UTF-8 of 1,024 bytes at most, events have 16 MiB"
        ) from error
