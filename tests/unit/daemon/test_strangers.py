"""Registry lookups that unauthenticated senders cause: bounded, always answered, apart from the
daemon's own."""

from __future__ import annotations

import time

import anyio
import pytest

from pilotstack.daemon import records as records_module
from pilotstack.daemon import strangers as module
from pilotstack.daemon.records import OUTAGE, Records
from pilotstack.daemon.strangers import LANES, QUIET, StrangerKeys
from pilotstack.errors import ConnectionFailed, NotFound, Throttled
from pilotstack.registry.client import Record

pytestmark = pytest.mark.anyio
KEY = b"1" * 32


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def record(node: int, key: bytes = KEY) -> Record:
    return Record(node, key, public=False, hostname="", endpoint="10.0.0.1:4000")


class Lookups:
    """A client that answers when it is let."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.error: Exception | None = None
        self.asked: list[int] = []
        self.at_once = 0
        self.is_closed = False

    async def profile(self, node_id: int) -> Record:
        self.asked.append(node_id)
        self.at_once += 1
        assert self.at_once == 1, "a client is used by one question at a time"
        try:
            await self.gate.wait()
            if self.error:
                raise self.error
            return record(node_id)
        finally:
            self.at_once -= 1

    async def record(self, node_id: int) -> Record:
        return await self.profile(node_id)

    async def aclose(self) -> None:
        self.is_closed = True


class Bench:
    """Keys of strangers, with what the core and the trust service are told."""

    def __init__(self) -> None:
        self.lanes = [Lookups() for _ in range(LANES)]
        self.own_client = Lookups()
        self.own = Records(self.own_client)  # type: ignore[arg-type]  # the part that is used
        self.seen: list[tuple[int, bytes]] = []
        self.answers: list[tuple[int, bytes | None]] = []
        self.refusal: Exception | None = None
        self.keys = StrangerKeys(self.lanes, self.own, self._see, self._answer)

    async def _see(self, node: int, key: bytes) -> None:
        self.seen.append((node, key))
        if self.refusal:
            raise self.refusal

    def _answer(self, node: int, key: bytes | None) -> None:
        self.answers.append((node, key))

    @property
    def asked(self) -> list[int]:
        return [node for lane in self.lanes for node in lane.asked]

    def fail(self, error: Exception | None) -> None:
        for lane in self.lanes:
            lane.error = error
            lane.gate.set()


async def test_concurrent_lookups_are_bounded_and_our_own_are_not_delayed() -> None:
    bench = Bench()
    bench.own_client.gate.set()
    async with anyio.create_task_group() as tasks:
        for node in range(100):
            tasks.start_soon(bench.keys.name, node)
        await anyio.wait_all_tasks_blocked()
        assert len(bench.asked) == LANES
        assert (await bench.own.resolved(7)).public_key == KEY
        bench.fail(None)
    assert sorted(bench.answers) == [(node, KEY) for node in range(100)]
    assert sorted(bench.seen) == sorted(bench.answers)


@pytest.mark.parametrize(
    "error", [NotFound("no"), ConnectionFailed("no"), OSError(5, "no"), ValueError("no")]
)
async def test_the_core_is_answered_whatever_happens(error: Exception) -> None:
    bench = Bench()
    bench.fail(error)
    await bench.keys.name(5)
    assert bench.answers == [(5, None)]
    bench.fail(None)
    bench.refusal = error
    await bench.keys.name(5)
    assert bench.answers[1:] == [(5, KEY)], "what the registry named is true all the same"


async def test_an_exception_ends_neither_the_daemon_nor_a_worker() -> None:
    bench = Bench()
    bench.fail(RuntimeError("a defect"))
    for node in range(2 * LANES):
        await bench.keys.name(node)
    assert bench.answers == [(node, None) for node in range(2 * LANES)]


async def test_a_registry_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.0)
    bench = Bench()
    await bench.keys.name(5)
    assert bench.answers == [(5, None)]


async def test_a_connection_that_died_unnoticed_costs_one_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dead(Lookups):
        async def aclose(self) -> None:
            await super().aclose()
            self.gate.set()

    monkeypatch.setattr(module, "ATTEMPT", 0.0)
    bench = Bench()
    bench.keys = StrangerKeys([Dead()], bench.own, bench._see, bench._answer)
    await bench.keys.name(5)
    assert bench.answers == [(5, KEY)]


async def test_known_keys_serve_while_no_registry_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> float:
        return now

    now = 1000.0
    for user in (module, records_module):
        monkeypatch.setattr(user.time, "monotonic", clock)
    bench = Bench()
    bench.own_client.gate.set()
    await bench.own.profile(1)
    bench.fail(None)
    await bench.keys.name(2)
    bench.answers.clear()
    bench.fail(ConnectionFailed("away"))
    for node in (1, 2, 3):
        await bench.keys.name(node)
    assert bench.answers == [(1, KEY), (2, KEY), (3, None)]
    now += OUTAGE
    bench.answers.clear()
    for node in (1, 2):
        await bench.keys.name(node)
    assert bench.answers == [(1, None), (2, None)]


async def test_lookups_for_unauthenticated_senders_pause_while_throttled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> float:
        return now

    now = 1000.0
    monkeypatch.setattr(time, "monotonic", clock)
    bench = Bench()
    bench.fail(Throttled("rate limited"))
    for node in range(10):
        await bench.keys.name(node)
    assert bench.asked == [0]
    assert bench.answers == [(node, None) for node in range(10)]
    bench.fail(None)
    now += QUIET
    await bench.keys.name(10)
    assert bench.answers[-1] == (10, KEY)


async def test_one_lookup_a_second_needs_no_connection_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> float:
        return now

    now = 1000.0
    monkeypatch.setattr(time, "monotonic", clock)
    bench = Bench()
    ours = Lookups()
    bench.keys = StrangerKeys(bench.lanes, bench.own, bench._see, bench._answer, ours=ours.profile)
    ours.gate.set()
    bench.fail(None)
    for node in range(5):
        await bench.keys.name(node)
    now += module.ON_OURS
    await bench.keys.name(5)
    assert (ours.asked, bench.asked) == ([0, 5], [1, 2, 3, 4])
    # It hangs: the lookup goes on over another one.
    monkeypatch.setattr(module, "ATTEMPT", 0.0)
    ours.gate = anyio.Event()
    now += module.ON_OURS
    await bench.keys.name(6)
    assert ours.asked[-1] == 6
    assert bench.answers[-1] == (6, KEY)


async def test_every_connection_is_closed() -> None:
    bench = Bench()
    await bench.keys.aclose()
    assert all(lane.is_closed for lane in bench.lanes)
