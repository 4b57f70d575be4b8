"""Conversations over UDP: bounded in number and in time."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from pilotstack.errors import InvalidArgument, NotRunning
from pilotstack.services.forward import Conversation, Conversations

pytestmark = pytest.mark.anyio


class Fake:
    """Keeps what it is sent, and answers what it is told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = anyio.Event()
        self.fails_with: Exception | None = None
        self._answers, self._inbox = anyio.create_memory_object_stream[bytes](10)

    async def send(self, data: bytes) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.sent.append(data)

    def answer(self, data: bytes) -> None:
        self._answers.send_nowait(data)

    async def receive(self) -> bytes:
        return await self._inbox.receive()

    async def aclose(self) -> None:
        self._answers.close()
        self._inbox.close()
        self.is_closed.set()


class Bench:
    """Conversations, those that were made, and what went back."""

    def __init__(self) -> None:
        self.made: dict[str, Fake] = {}
        self.back: list[tuple[bytes, str]] = []
        self.came_back = anyio.Event()

    async def begin(self, source: str) -> Conversation:
        self.made[source] = Fake()
        return self.made[source]

    async def take_back(self, data: bytes, source: str) -> None:
        self.back.append((data, source))
        self.came_back.set()


async def test_answers_go_to_whoever_asked() -> None:
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        conversations = Conversations(tasks, bench.begin, bench.take_back)
        await conversations.put(b"1", "ann")
        await conversations.put(b"2", "bob")
        await conversations.put(b"3", "ann")
        assert {name: fake.sent for name, fake in bench.made.items()} == {
            "ann": [b"1", b"3"],
            "bob": [b"2"],
        }
        bench.made["bob"].answer(b"4")
        await bench.came_back.wait()
        assert bench.back == [(b"4", "bob")]
        tasks.cancel_scope.cancel()
    assert all(fake.is_closed.is_set() for fake in bench.made.values())


async def test_the_longest_silent_one_makes_room() -> None:
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        conversations = Conversations(tasks, bench.begin, bench.take_back, limit=2)
        for source in ("ann", "bob", "ann", "cid"):
            await conversations.put(b"x", source)
        await bench.made["bob"].is_closed.wait()
        assert (len(conversations), conversations.dropped["evicted"]) == (2, 1)
        assert not bench.made["ann"].is_closed.is_set()
        tasks.cancel_scope.cancel()


async def test_a_silent_one_ends_and_begins_anew() -> None:
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        conversations = Conversations(tasks, bench.begin, bench.take_back, idle=0.01)
        await conversations.put(b"1", "ann")
        first = bench.made["ann"]
        with anyio.fail_after(30):
            await first.is_closed.wait()
        await conversations.put(b"2", "ann")
        assert bench.made["ann"] is not first
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidArgument("empty"), "size"), (ConnectionRefusedError(), "unsent")],
)
async def test_what_cannot_be_sent_is_counted(error: Exception, reason: str) -> None:
    bench = Bench()
    async with anyio.create_task_group() as tasks:
        conversations = Conversations(tasks, bench.begin, bench.take_back)
        await conversations.put(b"1", "ann")
        bench.made["ann"].fails_with = error
        await conversations.put(b"2", "ann")
        assert conversations.dropped == {reason: 1}
        bench.made["ann"].fails_with = NotRunning("the daemon ended")
        with pytest.raises(NotRunning):
            await conversations.put(b"3", "ann")
        tasks.cancel_scope.cancel()
