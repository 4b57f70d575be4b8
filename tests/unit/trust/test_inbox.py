"""The inbox reader with and without long polls, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
import trio.testing

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client.trust import Inbox, RelayedRequest, RelayedResponse
from pilotstack.trust import inbox as inboxes
from pilotstack.trust.inbox import BURST, BURST_INTERVAL, INTERVAL, MAX_IDLE, InboxReader

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def pass_time(seconds: float) -> None:
    """Virtual time: nothing waits for the clock on the wall."""
    with anyio.move_on_after(seconds):
        await anyio.Event().wait()


class Service:
    def __init__(self) -> None:
        self.taken: list[object] = []
        self.compared = 0

    async def compare(self) -> None:
        self.compared += 1

    async def relayed_revocation(self, peer: int, timestamp: int) -> None:
        self.taken.append(("revoked", peer, timestamp))

    async def relayed_request(self, peer: int, justification: str) -> None:
        self.taken.append((peer, justification))

    async def relayed_response(self, peer: int, accept: bool, timestamp: int) -> None:
        self.taken.append((peer, accept, timestamp))

    async def catch_up(self) -> None:
        self.taken.append("catch_up")


class Registry:
    """Answers as ``behave`` says, and notes when it was asked."""

    node_id = 0

    def __init__(self, behave: Callable[[int, int], Inbox | None]) -> None:
        self._behave = behave
        self.asked: list[tuple[float, int]] = []

    async def poll_handshakes(self, *, wait: int | None = None) -> Inbox:
        assert wait is not None
        self.asked.append((anyio.current_time(), wait))
        answer = self._behave(len(self.asked), wait)
        if answer is None:
            await pass_time(wait)
            return Inbox((), (), True, 0)
        return answer

    async def aclose(self) -> None:
        pass


def reader_of(registry: Registry) -> tuple[InboxReader, Service]:
    service = Service()
    return InboxReader(registry, service), service  # type: ignore[arg-type]


async def run_for(reader: InboxReader, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await reader.run()


async def test_long_polls_follow_each_other_without_a_pause() -> None:
    request = RelayedRequest(5, "hi", 1)
    registry = Registry(lambda n, _: Inbox((request,), (), True, 0) if n in {1, 3} else None)
    reader, service = reader_of(registry)
    await run_for(reader, 40)
    assert [wait for _, wait in registry.asked] == [0, 25, 25, 25]
    gaps = [b - a for (a, _), (b, _) in zip(registry.asked, registry.asked[1:], strict=False)]
    assert gaps == [0, 25, 0]
    assert service.taken == [(5, "hi")] * 2
    assert reader.taken == {"pushed": 2, "polled": 0}


async def test_a_legacy_registry_is_polled_more_often_after_a_request() -> None:
    registry = Registry(lambda *_: Inbox((), (), False, 0))
    reader, _ = reader_of(registry)
    await run_for(reader, 100)
    assert [wait for _, wait in registry.asked] == [0] * 4
    begin = registry.asked[0][0]
    assert [at - begin for at, _ in registry.asked] == [0, INTERVAL, 2 * INTERVAL, 3 * INTERVAL]
    registry.asked.clear()
    reader.expect()
    await run_for(reader, BURST + 1)
    assert len(registry.asked) == pytest.approx(BURST / BURST_INTERVAL, abs=2)


async def test_a_request_of_ours_ends_the_pause() -> None:
    registry = Registry(lambda *_: Inbox((), (), False, 0))
    reader, _ = reader_of(registry)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.run)
        await anyio.wait_all_tasks_blocked()
        before = anyio.current_time()
        reader.expect()
        await anyio.wait_all_tasks_blocked()
        assert (len(registry.asked), anyio.current_time()) == (2, before)
        tasks.cancel_scope.cancel()


async def test_failed_polls_back_off() -> None:
    def behave(number: int, wait: int) -> Inbox | None:
        if number < 8:
            raise ConnectionFailed("no registry answers")
        return None if wait else Inbox((), (), True, 0)

    registry = Registry(behave)
    reader, _ = reader_of(registry)
    await run_for(reader, 200)
    gaps = [b - a for (a, _), (b, _) in zip(registry.asked, registry.asked[1:], strict=False)]
    assert gaps[:7] == [0.5, 1, 2, 4, 8, 16, 30]
    assert reader.is_pushed


async def test_empty_wake_ups_are_checked_and_rate_limited() -> None:
    registry = Registry(lambda *_: Inbox((), (), True, 0))
    reader, service = reader_of(registry)
    await run_for(reader, 20)
    assert service.taken.count("catch_up") == len(registry.asked) - 1
    assert len(registry.asked) <= MAX_IDLE + 1 + 20 / inboxes.FLOOR + 1


async def test_the_last_answer_of_a_peer_counts() -> None:
    answers = (RelayedResponse(5, False, 1), RelayedResponse(5, True, 2))
    registry = Registry(lambda n, _: Inbox((), answers, True, 0) if n == 1 else None)
    reader, service = reader_of(registry)
    await run_for(reader, 1)
    assert service.taken == [(5, True, 2)]


async def test_refresh_reads_pending_items_unless_they_are_pushed() -> None:
    held = False
    registry = Registry(lambda *_: Inbox((), (), held, 0))
    reader, _ = reader_of(registry)
    await reader.refresh()
    await reader.refresh()
    assert len(registry.asked) == 1
    reader.is_pushed = True
    await pass_time(60)
    await reader.refresh()
    assert len(registry.asked) == 1
