"""The broker without IO: queues, waiting publishers, losses."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotstack.services.event_stream.broker import (
    PATIENCE,
    STALL,
    Blocked,
    Broker,
    Limits,
    Subscriber,
)

PUBLISHER = 1000


def publish(broker: Broker, number: int, topic: bytes = b"t") -> Blocked | list[object]:
    result = broker.publish(topic, b"%04d" % number, PUBLISHER)
    return result if isinstance(result, Blocked) else [*result]


def read(broker: Broker, subscriber: Subscriber) -> tuple[list[int], int]:
    """Everything that is there, and what was lost before it."""
    got: list[int] = []
    lost = 0
    while True:
        data, gap = broker.read(subscriber)
        lost += gap
        if not data:
            return got, lost
        got += [int(data[at : at + 4]) for at in range(0, len(data), 4)]


def test_a_subscriber_gets_its_topic_and_the_wildcard_everything() -> None:
    broker = Broker()
    one, everything = broker.subscribe(b"t", 1), broker.subscribe(b"*", 2)
    pattern = broker.subscribe(b"t.*", 3)
    publish(broker, 1)
    publish(broker, 2, b"t.x")
    publish(broker, 3, b"*")
    publish(broker, 4, b"")
    assert read(broker, one) == ([1], 0)
    assert read(broker, everything) == ([1, 2, 3, 4], 0)
    assert read(broker, pattern) == ([], 0)
    assert broker.held == 0


def test_a_connection_does_not_get_its_own_events() -> None:
    broker = Broker()
    both = broker.subscribe(b"t", PUBLISHER)
    both.cursor.has_published = True
    other = broker.subscribe(b"t", 2)
    publish(broker, 1)
    broker.publish(b"t", b"0002", 2)
    assert read(broker, both) == ([2], 0)
    assert read(broker, other)[0] == [1, 2]


def test_nobody_gets_what_came_before() -> None:
    broker = Broker()
    publish(broker, 1)
    first = broker.subscribe(b"t", 1)
    publish(broker, 2)
    second = broker.subscribe(b"t", 2)
    publish(broker, 3)
    assert read(broker, first) == ([2, 3], 0)
    assert read(broker, second) == ([3], 0)
    broker.unsubscribe(first)
    broker.unsubscribe(second)
    assert (broker.subscribers, broker.held) == (0, 0)


def test_idle_subscribers_are_named_once() -> None:
    broker = Broker()
    one = broker.subscribe(b"t", 1)
    assert publish(broker, 1) == []
    read(broker, one)
    assert publish(broker, 2) == [one.cursor]
    assert publish(broker, 3) == []
    broker.unsubscribe(one)


def test_a_publisher_waits_for_who_keeps_up_and_no_longer_for_who_does_not() -> None:
    broker = Broker(Limits(events=4))
    quick, slow = broker.subscribe(b"t", 1), broker.subscribe(b"t", 2)
    for number in range(4):
        assert publish(broker, number) == []
    # Both could be waited for: nobody is held up by that.
    blocked = publish(broker, 4)
    assert isinstance(blocked, Blocked)
    assert (blocked.seconds, {*blocked.cursors}) == (STALL, {quick.cursor, slow.cursor})
    assert read(broker, quick)[0] == [0, 1, 2, 3]
    blocked = publish(broker, 4)
    assert isinstance(blocked, Blocked)
    assert (blocked.seconds, blocked.cursors) == (PATIENCE, (slow.cursor,))
    broker.waited(blocked, PATIENCE / 2)
    again = publish(broker, 4)
    assert isinstance(again, Blocked)
    assert again.seconds == PATIENCE / 2
    broker.waited(again, PATIENCE / 2)
    assert broker.counts["lagging"] == 1
    # From now on it loses the oldest, and nobody waits for it.
    for number in range(4, 10):
        assert publish(broker, number) == [quick.cursor]
        assert read(broker, quick) == ([number], 0)
    assert read(broker, slow) == ([6, 7, 8, 9], 6)
    assert (slow.cursor.lost, broker.counts["lost"]) == (6, 6)
    # It has caught up, and is waited for again.
    assert not slow.cursor.is_lagging
    assert broker.held == 0


def test_a_lone_subscriber_that_takes_nothing_is_given_up_at_last() -> None:
    broker = Broker(Limits(events=2))
    lone = broker.subscribe(b"t", 1)
    publish(broker, 0)
    publish(broker, 1)
    blocked = publish(broker, 2)
    assert isinstance(blocked, Blocked)
    # It took something meanwhile: that does not count.
    broker.waited(blocked, STALL / 2)
    assert not lone.cursor.is_lagging
    broker.waited(blocked, STALL)
    assert publish(broker, 2) == []
    assert read(broker, lone) == ([1, 2], 1)


def test_queues_are_bounded_in_bytes_too() -> None:
    broker = Broker(Limits(events=100, bytes=10))
    lone = broker.subscribe(b"t", 1)
    lone.cursor.is_lagging = True
    for number in range(5):
        publish(broker, number)
    assert broker.held == 8
    # One that is larger than all of the queue still passes.
    broker.publish(b"t", b"0" * 40, PUBLISHER)
    assert broker.held == 40
    assert broker.read(lone)[1] == 5


def test_all_queues_together_are_bounded() -> None:
    limits = Limits(events=100, bytes=1000, total_bytes=100)
    broker = Broker(limits)
    subscribers = [broker.subscribe(b"%d" % number, number) for number in range(10)]
    for number in range(100):
        publish(broker, number, b"%d" % (number % 10))
        assert broker.held <= 104
    total = sum(len(read(broker, each)[0]) + each.cursor.lost for each in subscribers)
    assert total == 100


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 6), st.integers(1, 12))
def test_every_event_arrives_in_order_or_is_counted(seed: int, readers: int, room: int) -> None:
    chance = random.Random(seed)
    broker = Broker(Limits(events=room))
    subscribers = [broker.subscribe(b"t", number) for number in range(readers)]
    got: dict[int, list[int]] = {number: [] for number in range(readers)}
    lost = dict.fromkeys(range(readers), 0)
    sent = 0
    for _ in range(200):
        if chance.random() < 0.6:
            result = publish(broker, sent)
            if isinstance(result, Blocked):
                if chance.random() < 0.3:
                    broker.waited(result, STALL)
                continue
            sent += 1
        else:
            number = chance.randrange(readers)
            data, gap = broker.read(subscribers[number])
            lost[number] += gap
            got[number] += [int(data[at : at + 4]) for at in range(0, len(data), 4)]
    for number, subscriber in enumerate(subscribers):
        rest, gap = read(broker, subscriber)
        got[number] += rest
        lost[number] += gap
        assert got[number] == sorted(set(got[number]))
        assert len(got[number]) + lost[number] == sent
    assert broker.held == 0
