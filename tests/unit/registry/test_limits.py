"""The registry's limits: buckets and seats per source."""

from __future__ import annotations

import base64

import pytest

from pilotstack._resolving import source_of
from pilotstack.registry.model.budgets import Bucket, Buckets
from pilotstack.registry.protocol.requests.directory import Lookup
from pilotstack.registry.protocol.requests.identity import Heartbeat, Register
from pilotstack.registry.server.limits import MAX_REFUSALS, Limits, Throttle

FAR, NEAR = "203.0.113.7", "127.0.0.1"


def register(number: int) -> Register:
    return Register(public_key=base64.b64encode(number.to_bytes(32)).decode())


@pytest.mark.parametrize(
    ("host", "source", "is_local"),
    [
        ("203.0.113.7", "203.0.113.7", False),
        ("::ffff:203.0.113.7", "203.0.113.7", False),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", False),
        ("fe80::1%eth0", "fe80::/64", False),
        ("127.8.9.1", "127.8.9.1", True),
        ("::1", "::/64", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_prefix(
    host: str, source: str, is_local: bool
) -> None:
    assert source_of(host) == (source, is_local)


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(1 / 6, 10, 0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not bucket.take(5.9)
    assert bucket.take(6.1)
    assert not bucket.take(6.2)
    # A clock that steps back gives nothing and takes nothing.
    assert not bucket.take(0.0)
    assert not bucket.is_full(30.0)
    assert bucket.is_full(100.0)


def test_full_buckets_are_swept_and_their_number_is_bounded() -> None:
    buckets = Buckets(1.0, 2.0, limit=100)
    for number in range(1000):
        buckets.take(f"source-{number}", 0.0)
    assert len(buckets) == 100
    buckets.take("source-999", 0.0)
    buckets.sweep(1.5)
    assert len(buckets) == 1
    buckets.sweep(3.0)
    assert len(buckets) == 0


def test_new_keys_are_limited_per_source_and_known_ones_are_not() -> None:
    known: set[bytes] = set()
    throttle = Throttle(Limits(), known.__contains__)
    first, second = throttle.connection(FAR, 0.0), throttle.connection(FAR, 0.0)
    answers = [
        connection.refusal(register(number), 0.0)
        for number, connection in enumerate([first, second] * 5)
    ]
    assert answers == [""] * 10
    text = first.refusal(register(10), 0.0)
    assert text == f"rate limited: too many registrations from {FAR}"
    assert second.refusal(register(11), 0.0) == text
    known.add((3).to_bytes(32))
    assert first.refusal(register(3), 0.0) == ""
    assert throttle.connection("203.0.113.8", 0.0).refusal(register(12), 0.0) == ""
    assert throttle.connection(NEAR, 0.0).refusal(register(13), 0.0) == ""
    assert first.refusal(Heartbeat(), 0.0) == ""
    assert first.refusal(register(10), 6.5) == ""


def test_one_ipv6_prefix_is_one_source() -> None:
    throttle = Throttle(Limits(), lambda key: False)
    refusals = [
        throttle.connection(f"2001:db8::{number:x}", 0.0).refusal(register(number), 0.0)
        for number in range(12)
    ]
    assert refusals[:10] == [""] * 10
    assert all(text.startswith("rate limited: ") for text in refusals[10:])


def test_the_limits_can_include_loopback() -> None:
    throttle = Throttle(Limits(registrations=1, includes_loopback=True), lambda key: False)
    connection = throttle.connection(NEAR, 0.0)
    assert connection.refusal(register(1), 0.0) == ""
    assert connection.refusal(register(2), 0.0).startswith("rate limited: ")


def test_lookups_are_limited_over_all_connections_of_a_source() -> None:
    throttle = Throttle(Limits(lookups=10, requests=0), lambda key: False)
    asked = [throttle.connection(FAR, 0.0).refusal(Lookup(node_id=n), 0.0) for n in range(150)]
    assert asked.count("") == 100
    assert throttle.sources == 1
    throttle.sweep(60.0)
    assert throttle.sources == 0


def test_a_flood_on_one_connection_is_refused_and_then_cut() -> None:
    throttle = Throttle(Limits(requests=100), lambda key: False)
    connection = throttle.connection(FAR, 0.0)
    answers = [connection.refusal(Heartbeat(), 0.0) for _ in range(200 + MAX_REFUSALS)]
    assert answers.count("") == 200
    assert connection.is_spent
    # Patience is rewarded.
    assert connection.refusal(Heartbeat(), 1.0) == ""
    assert not connection.is_spent


def test_a_flood_that_gets_some_answers_is_cut_and_slight_excess_is_not() -> None:
    throttle = Throttle(Limits(requests=10), lambda key: False)
    flood, eager = (throttle.connection(FAR, 0.0) for _ in range(2))
    # Ten requests for each token, and six for each five.
    for number in range(1500):
        flood.refusal(Heartbeat(), number / 100)
    assert flood.is_spent
    for number in range(5000):
        eager.refusal(Heartbeat(), number / 12)
    assert not eager.is_spent
