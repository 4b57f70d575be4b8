"""The event stream as peers see it."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.unit.services import vectors
from tests.unit.services.streams import Pipe, pipe

from pilotstack.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    NotRunning,
    StreamBroken,
)
from pilotstack.services.event_stream import (
    Event,
    EventStream,
    Limits,
    Publisher,
    Subscription,
    client,
    service,
)
from pilotstack.services.event_stream.codec import Decoder, encode, text_of
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

LIVE = vectors.of("live_transcripts")["pairs"]["g2-g2"]
PEER = SocketAddress(Address(0, 2), 49_152)


class Broker:
    """A broker to which pipes lead."""

    def __init__(self, tasks: anyio.abc.TaskGroup, stream: EventStream) -> None:
        self._tasks = tasks
        self.stream = stream
        self.pipes: list[Pipe] = []

    async def dial(self, peer: SocketAddress = PEER) -> Pipe:
        """A stream to it."""
        ours, theirs = pipe(dialler=peer)
        self.pipes += [ours, theirs]
        self._tasks.start_soon(self._handle, theirs, peer)
        return ours

    async def _handle(self, stream: Pipe, peer: SocketAddress) -> None:
        with suppress(anyio.BrokenResourceError):
            await self.stream.handle(stream, peer)

    def subscription(self, topic: str) -> Subscription:
        """To be entered."""
        return Subscription(self.dial, topic)

    def publisher(self) -> Publisher:
        """To be entered."""
        return Publisher(self.dial)

    async def old(self, topic: str, peer: SocketAddress = PEER) -> Pipe:
        """A subscriber as existing nodes are."""
        stream = await self.dial(peer)
        before = self.stream.broker.subscribers
        await stream.send(encode(Event(topic)))
        while self.stream.broker.subscribers == before:
            await anyio.lowlevel.checkpoint()
        return stream


@asynccontextmanager
async def brokering(**options: Any) -> AsyncIterator[Broker]:
    pipes: list[Pipe] = []
    try:
        async with anyio.create_task_group() as tasks:
            broker = Broker(tasks, EventStream(**options))
            pipes = broker.pipes
            with anyio.fail_after(30):
                yield broker
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            for end in pipes:
                await end.aclose()


async def received(stream: Pipe, count: int) -> list[Event]:
    decoder = Decoder()
    found: list[Event] = []
    while len(found) < count:
        found += [
            Event(text_of(raw.topic), raw.payload) for raw in decoder.feed(await stream.receive())
        ]
    return found


async def test_the_recorded_dialogue() -> None:
    row = next(row for row in LIVE if row.get("name") == "eventstream")
    async with brokering() as broker:
        one, everything = await broker.old("t.live"), await broker.old("*")
        publisher = await broker.old("t.live")
        events = Decoder().feed(bytes.fromhex(row["sub_star"]))
        await publisher.send(b"".join(raw.wire for raw in events))
        expected = [Event(text_of(raw.topic), raw.payload) for raw in events]
        assert await received(everything, len(events)) == expected
        assert await received(one, 1) == expected[:1]
        # The publisher subscribes to the topic, and does not get its own event.
        await one.send(encode(Event("t.live", b"back")))
        assert await received(publisher, 1) == [Event("t.live", b"back")]


@pytest.mark.parametrize(
    "row",
    [row for row in LIVE if row.get("port") == 1002],
    ids=lambda row: row["name"],
)
async def test_recorded_bad_subscriptions(row: dict[str, Any]) -> None:
    async with brokering() as broker:
        stream = await broker.dial()
        with suppress(anyio.BrokenResourceError):
            for part in row["sent_hex"]:
                await stream.send(bytes.fromhex(part))
        if row["end"] == "EOF":
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            assert broker.stream.dropped["malformed"] == 1
        else:
            while not broker.stream.broker.subscribers:
                await anyio.lowlevel.checkpoint()


async def test_a_subscription_is_iterated_over() -> None:
    async with brokering() as broker:
        got = []
        async with broker.subscription("news") as subscription:
            assert await subscription.confirmed()
            async with broker.publisher() as publisher:
                assert publisher.has_flow_control
                for number in range(3):
                    await publisher.publish("news", f"number {number}")
                await publisher.publish("other", b"not for us")
            async for event in subscription:
                got.append(event.text)
                if len(got) == 3:
                    break
        assert got == ["number 0", "number 1", "number 2"]


async def test_events_before_the_end_of_a_publisher_arrive() -> None:
    async with brokering() as broker, broker.subscription("*") as subscription:
        await subscription.confirmed()
        stream = await broker.dial()
        await stream.send(encode(Event("a")) + encode(Event("a", b"1")) + encode(Event("a", b"2")))
        await stream.aclose()
        assert [(await anext(subscription)).payload for _ in range(2)] == [b"1", b"2"]


async def test_a_slow_subscriber_loses_the_oldest_is_told_and_blocks_nobody() -> None:
    async with (
        brokering(limits=Limits(events=64)) as broker,
        broker.subscription("t") as slow,
        broker.subscription("t") as quick,
    ):
        await slow.confirmed()
        await quick.confirmed()
        got: list[bytes] = []

        async def take() -> None:
            async for event in quick:
                got.append(event.payload)
                if len(got) == 2000:
                    return

        async with anyio.create_task_group() as tasks, broker.publisher() as publisher:
            tasks.start_soon(take)
            for number in range(2000):
                await publisher.publish("t", str(number))
        assert got == [b"%d" % number for number in range(2000)]
        assert quick.lost == 0
        told: list[int] = []
        slow.on_lost = lambda lost: told.append(lost.lost)
        seen = []
        async for event in slow:
            seen.append(int(event.payload))
            if seen[-1] == 1999:
                break
        assert seen == sorted(seen)
        assert len(seen) + slow.lost == 2000
        assert sum(told) == slow.lost > 0
        assert broker.stream.dropped["lost"] == slow.lost
        assert broker.stream.dropped["lagging"] == 1


async def test_old_subscribers_get_no_messages_of_ours() -> None:
    async with brokering(limits=Limits(events=4)) as broker:
        old = await broker.old("t")
        async with broker.publisher() as publisher:
            for number in range(10):
                await publisher.publish("t", str(number))
        topics = {event.topic for event in await received(old, 4)}
        assert topics == {"t"}


async def test_a_publisher_waits_while_its_only_subscriber_has_no_room() -> None:
    async with (
        brokering(limits=Limits(events=4)) as broker,
        broker.subscription("t") as subscription,
        broker.publisher() as publisher,
    ):
        await subscription.confirmed()
        payload = bytes(200_000)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(400):
                await publisher.publish("t", payload)
                sent += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            # Pipes and queue are full: it was not let go on.
            assert sent < 400
            for _ in range(400):
                await anext(subscription)
        assert subscription.lost == 0


async def test_a_subscriber_that_takes_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TAKE", 0.05)
    async with brokering(limits=Limits(events=4)) as broker:
        await broker.old("t")
        async with broker.publisher() as publisher:
            payload = bytes(200_000)
            for _ in range(80):
                await publisher.publish("t", payload)
            while broker.stream.broker.subscribers:
                await anyio.lowlevel.checkpoint()
        assert broker.stream.dropped["stuck"] == 1


async def test_reserved_topics_cannot_be_published_to() -> None:
    async with brokering() as broker, broker.subscription("*") as subscription:
        await subscription.confirmed()
        stream = await broker.old("x")
        await stream.send(encode(Event("\x00pilot.lost", b'{"lost":1,"total":99}')))
        await stream.send(encode(Event("\x00pilot.governed.v1", b"x")))
        await stream.send(encode(Event("t", b"fine")))
        assert (await anext(subscription)).payload == b"fine"
        assert subscription.lost == 0
        assert broker.stream.dropped["refused"] == 2
        async with broker.publisher() as publisher:
            with pytest.raises(InvalidArgument):
                await publisher.publish("\x00pilot.lost", b"")


async def test_a_policy_decides_about_topics() -> None:
    async with brokering(
        may_subscribe=lambda peer, topic: topic != "secret" and peer == PEER,
        may_publish=lambda peer, topic: topic == "open" and peer == PEER,
    ) as broker:
        async with broker.subscription("secret") as denied:
            assert [event async for event in denied] == []
        async with broker.subscription("*") as subscription:
            await subscription.confirmed()
            async with broker.publisher() as publisher:
                await publisher.publish("closed", b"")
                await publisher.publish("open", b"1")
                with pytest.raises(ConnectionFailed, match="refused 1 events"):
                    await publisher.flush()
            assert (await anext(subscription)).topic == "open"
        assert (broker.stream.dropped["denied"], broker.stream.dropped["refused"]) == (1, 1)


async def test_incomplete_events_hold_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_INCOMPLETE", 1 << 20)
    async with brokering() as broker:
        streams = [await broker.old("t") for _ in range(2)]
        head = b"\x00\x01t" + (16 << 20).to_bytes(4)
        await streams[0].send(head + bytes(900_000))
        await anyio.wait_all_tasks_blocked()
        await streams[1].send(head + bytes(900_000))
        with pytest.raises(anyio.EndOfStream):
            await streams[1].receive()
        async with broker.subscription("u") as subscription:
            assert await subscription.confirmed()
        await streams[0].aclose()
        while broker.stream.budget.held:
            await anyio.lowlevel.checkpoint()


async def test_a_peer_cannot_take_the_room_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_INCOMPLETE", 2 << 20)
    monkeypatch.setattr(service, "MAX_INCOMPLETE_OF_PEER", 1 << 20)
    head = b"\x00\x01t" + (16 << 20).to_bytes(4)
    async with brokering() as broker:
        hostile = [await broker.old("t") for _ in range(2)]
        for stream in hostile:
            await stream.send(head + bytes(900_000))
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.EndOfStream):
            await hostile[1].receive()
        watching = await broker.old("u", SocketAddress(Address(0, 4), 49_152))
        honest = await broker.old("v", SocketAddress(Address(0, 3), 49_152))
        event = Event("u", bytes(900_000))
        await honest.send(encode(event))
        assert await received(watching, 1) == [event]


async def test_peers_that_fill_the_room_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_INCOMPLETE", 2 << 20)
    monkeypatch.setattr(service, "MAX_INCOMPLETE_OF_PEER", 1 << 20)
    head = b"\x00\x01t" + (16 << 20).to_bytes(4)
    async with brokering() as broker:
        hostile = [await broker.old("t", SocketAddress(Address(0, node), 1)) for node in (11, 12)]
        for stream in hostile:
            await stream.send(head + bytes((1 << 20) - 100))
            await anyio.wait_all_tasks_blocked()
        watching = await broker.old("u", SocketAddress(Address(0, 4), 49_152))
        honest = await broker.old("v", SocketAddress(Address(0, 3), 49_152))
        event = Event("u", bytes(900_000))
        await honest.send(encode(event))
        assert await received(watching, 1) == [event]
        with pytest.raises(anyio.EndOfStream):
            await hostile[0].receive()
        assert broker.stream.dropped["busy"] == 1


@pytest.mark.parametrize("limit", ["TAKE", "PART"])
async def test_an_event_that_never_ends_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(service, limit, 0.0)
    async with brokering() as broker:
        stream = await broker.old("t")
        await stream.send(b"\x00\x01t" + (16 << 20).to_bytes(4) + b"part")
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        assert broker.stream.dropped["silent"] == 1


async def test_a_subscription_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.0)
    told: list[str] = []
    async with brokering() as broker:
        failures = [StreamBroken("the path is lost", reason="reset"), NotFound("nobody has it")]

        async def dial() -> Pipe:
            if told and failures:
                raise failures.pop()
            return await broker.dial()

        subscription = Subscription(dial, "t", reconnect=True)
        subscription.on_break = lambda why: told.append(type(why).__name__)
        async with subscription, broker.publisher() as publisher:
            assert await subscription.confirmed()
            await publisher.publish("t", b"before")
            assert (await anext(subscription)).payload == b"before"
            await broker.pipes[1].send_eof()

            async def publish() -> None:
                while True:
                    await publisher.publish("t", b"after")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                assert (await anext(subscription)).payload == b"after"
                tasks.cancel_scope.cancel()
            assert (subscription.breaks, len(told), failures) == (1, 1, [])
            await subscription.aclose()

            async def drain() -> None:
                async for _ in subscription:
                    pass

            with pytest.raises(anyio.ClosedResourceError):
                await drain()


async def test_a_subscription_that_is_cancelled_between_attempts_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    async with brokering() as broker:
        is_lost = False

        async def dial() -> Pipe:
            if is_lost:
                raise NotRunning("no daemon answers")
            return await broker.dial()

        async with Subscription(dial, "t", reconnect=True) as subscription:
            assert await subscription.confirmed()
            is_lost = True
            await broker.pipes[1].send_eof()
            with anyio.move_on_after(0.1):
                await anext(subscription)
            assert subscription.breaks == 1
            is_lost = False
            assert await subscription.confirmed(20)
        # The first attempt is not repeated.
        is_lost = True
        with pytest.raises(NotRunning):
            await anext(Subscription(dial, "t", reconnect=True))


async def test_without_reconnect_the_end_is_the_end() -> None:
    async with brokering() as broker, broker.subscription("t") as subscription:
        assert await subscription.confirmed()
        await broker.pipes[1].send_eof()
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)


@pytest.mark.parametrize("topic", ["x" * 1025, "\ud800"])
async def test_topics_that_cannot_be_sent_are_an_error_of_the_caller(topic: str) -> None:
    async with brokering() as broker, broker.publisher() as publisher:
        with pytest.raises(InvalidArgument):
            await publisher.publish(topic, b"")
        with pytest.raises(InvalidArgument):
            broker.subscription(topic)
        with pytest.raises(InvalidArgument):
            await publisher.publish("t", bytes((16 << 20) + 1))
        await publisher.publish("t", b"fine")


async def test_a_broker_that_sends_nonsense_is_an_error(tmp_path: object) -> None:
    ours, theirs = pipe()

    async def dial() -> Pipe:
        return ours

    async with Subscription(dial, "t") as subscription:
        await theirs.send(b"\xff\xff")
        with pytest.raises(ConnectionFailed):
            await anext(subscription)
    await theirs.aclose()
    await ours.aclose()
