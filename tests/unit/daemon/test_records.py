"""The cache of registry records."""

from __future__ import annotations

import anyio
import pytest

from pilotstack.daemon import records as module
from pilotstack.daemon.records import FLOOR, OUTAGE, PAUSES, Records
from pilotstack.errors import ConnectionFailed, NotFound, Throttled
from pilotstack.registry.client import Record

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Registry:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.key = b"1" * 32
        self.error: Exception | None = None
        self.refusals = 0

    async def profile(self, node: int) -> Record:
        return self._answer("profile", node, "")

    async def record(self, node: int) -> Record:
        return self._answer("record", node, "10.0.0.1:4000")

    def _answer(self, what: str, node: int, endpoint: str) -> Record:
        self.asked.append(what)
        if self.error:
            raise self.error
        if self.refusals:
            self.refusals -= 1
            raise Throttled("rate limited")
        return Record(node, self.key, False, "", endpoint)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slept(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for; the clock jumps instead."""
    waits: list[float] = []

    async def jump(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(anyio, "sleep", jump)
    return waits


async def test_each_use_says_how_old_a_record_may_be(clock: Clock) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    await records.profile(2, 30)
    clock.now += 29
    await records.profile(2, 30)
    assert registry.asked == ["profile"]
    await records.profile(2, 0)
    assert registry.asked == ["profile"] * 2
    await records.profile(2)
    assert registry.asked == ["profile"] * 2


async def test_a_fresh_lookup_ignores_the_cache(clock: Clock, slept: list[float]) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    await records.profile(2, 30)
    clock.now += FLOOR / 5
    # As of a node that has joined a network in the meantime.
    registry.key = b"2" * 32
    assert (await records.profile(2, 0)).public_key == b"2" * 32
    assert slept == [pytest.approx(FLOOR * 4 / 5)]


async def test_a_lookup_with_endpoint_serves_other_uses(clock: Clock) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    assert (await records.resolved(2)).endpoint
    clock.now += 1
    await records.profile(2, 30)
    assert registry.asked == ["record"]
    records.forget(2)
    await records.profile(2, 30)
    assert registry.asked == ["record", "profile"]


async def test_a_tunnel_never_gets_a_cached_record(clock: Clock, slept: list[float]) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    await records.resolved(2)
    clock.now += FLOOR / 5
    registry.key = b"2" * 32
    assert (await records.resolved(2)).public_key == b"2" * 32
    assert slept == [pytest.approx(FLOOR * 4 / 5)]
    clock.now += 10 * FLOOR
    await records.resolved(2)
    assert slept[1] == 0
    assert registry.asked == ["record"] * 3


async def test_an_outage_is_bridged_and_a_refusal_is_not(clock: Clock) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    await records.resolved(2)
    clock.now += OUTAGE - 1
    registry.error = ConnectionFailed("away")
    assert (await records.resolved(2)).endpoint
    with pytest.raises(ConnectionFailed):
        await records.resolved(3)
    clock.now += 2
    with pytest.raises(ConnectionFailed):
        await records.resolved(2)
    registry.error = NotFound("gone")
    with pytest.raises(NotFound):
        await records.profile(2, 0)


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    for node in range(5):
        await records.resolved(node)
    assert list(records._resolved) == list(records._profiles) == [2, 3, 4]


async def test_a_throttled_lookup_is_retried(slept: list[float]) -> None:
    registry = Registry()
    records = Records(registry)  # type: ignore[arg-type]
    registry.refusals = len(PAUSES)
    assert (await records.resolved(2)).endpoint
    assert slept == list(PAUSES)
    registry.refusals = len(PAUSES) + 1
    with pytest.raises(Throttled):
        await records.profile(3)
