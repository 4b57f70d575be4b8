"""Held polls."""

from __future__ import annotations

import anyio
import pytest
import trio.testing

from pilotstack.registry.server.waiting import MAX_HELD, Waiters

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def test_held_polls_of_a_node_are_bounded_and_the_oldest_is_answered() -> None:
    waiters = Waiters()
    answered: list[int] = []

    async def poll(number: int) -> None:
        await waiters.wait(1, 50.0)
        answered.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(MAX_HELD + 3):
            tasks.start_soon(poll, number)
            await trio.testing.wait_all_tasks_blocked()
        assert answered == [0, 1, 2]
        assert waiters.held == MAX_HELD
        assert waiters.wake([1, 2]) == [2]
        await trio.testing.wait_all_tasks_blocked()
        assert len(answered) == MAX_HELD + 3
    assert waiters.held == 0
    assert waiters.forget(2)
    assert not waiters.forget(1)
