"""One connection of the registry, in virtual time: deadlines, held polls, memory, floods."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
import trio.testing
from tests.support.logs import captured_logs
from tests.support.memory import Pipe
from tests.support.registries import signed
from tests.support.registry import apply, request_of

from pilotstack.daemon.identity import Identity
from pilotstack.registry.model.budgets import LOG_BURST
from pilotstack.registry.model.guesses import WRONG_BURST
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing, values
from pilotstack.registry.protocol.requests.base import Refusal, Reply
from pilotstack.registry.protocol.requests.replication import SubscribeReplication
from pilotstack.registry.protocol.requests.trust import RequestHandshakeReply
from pilotstack.registry.replication.primary import Publisher
from pilotstack.registry.server.limits import MAX_REFUSALS, Limits
from pilotstack.registry.server.service import Service
from pilotstack.registry.server.session import (
    FIRST_FRAME,
    IDLE,
    TICK,
    WRITE,
    Flood,
    Memory,
    OutOfMemory,
    Session,
    Watch,
)
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore

if TYPE_CHECKING:
    from pilotstack.registry.protocol.requests.directory import Lookup

pytestmark = pytest.mark.anyio

FAR = "203.0.113.7"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Registry:
    """State and service without sockets or disks."""

    def __init__(self, limits: Limits | None = None, *, primary: str = "", token: str = "") -> None:
        self.token = token
        self.state = State(Policy(salt=os.urandom(32)))
        self.ledger = Ledger(self.state, MemoryStore())
        self.notified: list[int] = []
        self.service = Service(
            self.ledger, limits or Limits(), primary=primary, notify=self.notified.extend
        )
        self.memory = Memory(100_000)
        self.unread = Memory(20_000)
        self.watch = Watch()

    def register(self) -> tuple[int, Identity]:
        """A registered node."""
        identity = Identity.generate()
        key = values.encode_base64(identity.public_key)
        request = signed(
            identity,
            f"register:127.0.0.1:4000:{key}",
            type="register",
            public_key=key,
            listen_addr="127.0.0.1:4000",
        )
        reply = apply(self.state, request, Source("127.0.0.1", 1), 0.0).reply
        return reply["node_id"], identity

    async def serve(self, pipe: Pipe, host: str = "127.0.0.1") -> None:
        """Serves a connection of a client."""
        failure: Exception | None = None
        session = Session(
            pipe,
            host,
            1000,
            service=self.service,
            publisher=Publisher(self.ledger, token=self.token),
            memory=self.memory,
            unread=self.unread,
            watch=self.watch,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.watch.run)
            try:
                await session.run()
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


def frame(request: object) -> bytes:
    body = json.dumps(request).encode()
    return len(body).to_bytes(4) + body


async def ask(pipe: Pipe, request: object) -> dict[str, object]:
    await pipe.incoming.send(frame(request))
    return framing.decode((await pipe.outgoing.receive())[4:])


def poll_of(node_id: int, identity: Identity, **members: object) -> dict[str, object]:
    return signed(
        identity,
        f"poll_handshakes:{node_id}",
        type="poll_handshakes",
        node_id=node_id,
        **members,
    )


async def test_a_silent_connection_is_closed_after_its_first_deadline() -> None:
    registry, pipe = Registry(), Pipe()
    async with pipe:
        with pytest.raises(TimeoutError):
            await registry.serve(pipe)
    assert FIRST_FRAME <= anyio.current_time() <= FIRST_FRAME + 2 * TICK


async def test_a_request_sent_byte_by_byte_times_out() -> None:
    registry, pipe = Registry(), Pipe()

    async def dribble() -> None:
        await pipe.incoming.send(frame({"type": "beacon_list"}))
        for byte in frame({"type": "beacon_list", "padding": "x" * 100}):
            await trio.sleep_until(trio.current_time() + 5)
            await pipe.incoming.send(bytes([byte]))

    async def read() -> None:
        await pipe.outgoing.receive()

    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(dribble)
        tasks.start_soon(read)
        with pytest.raises(TimeoutError):
            await registry.serve(pipe)
        tasks.cancel_scope.cancel()
    # The first byte came after five seconds; each later one did not extend the time.
    assert anyio.current_time() <= 5 + FIRST_FRAME + 2 * TICK


async def test_an_idle_connection_stays_for_five_minutes() -> None:
    registry, pipe = Registry(), Pipe()

    async def client() -> None:
        for _ in range(3):
            await ask(pipe, {"type": "beacon_list"})
            await trio.sleep_until(trio.current_time() + IDLE - 1)
        await ask(pipe, {"type": "beacon_list"})

    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(client)
        with pytest.raises(TimeoutError):
            await registry.serve(pipe)
    assert 0 <= anyio.current_time() - (4 * IDLE - 3) <= 2 * TICK


async def test_an_unread_reply_times_out() -> None:
    registry, pipe = Registry(), Pipe()
    async with pipe:
        await pipe.incoming.send(frame({"type": "beacon_list"}))
        with pytest.raises(TimeoutError):
            await registry.serve(pipe)
    assert WRITE <= anyio.current_time() <= WRITE + 2 * TICK


async def test_long_requests_share_a_budget_and_the_longest_is_dropped() -> None:
    registry = Registry()
    pipes = [Pipe() for _ in range(4)]
    sizes = [60_000, 90_000, 30_000, 95_000]
    ended: list[int] = []

    async def serve(number: int) -> None:
        with pytest.raises(OutOfMemory):
            await registry.serve(pipes[number])
        ended.append(number)

    async with anyio.create_task_group() as tasks:
        for number, (pipe, size) in enumerate(zip(pipes, sizes, strict=True)):
            await pipe.incoming.send((1 << 20).to_bytes(4) + b"x" * size)
            tasks.start_soon(serve, number)
            await trio.testing.wait_all_tasks_blocked()
        # The second and the last are longer than what there is; the third has room.
        assert ended == [1, 3]
        tasks.cancel_scope.cancel()
    for pipe in pipes:
        await pipe.aclose()


async def test_the_source_that_holds_most_memory_loses_a_connection() -> None:
    registry = Registry()
    greedy, modest = Pipe(), Pipe()
    ended: list[str] = []

    async def serve(pipe: Pipe, host: str) -> None:
        try:
            await registry.serve(pipe, host)
        except OutOfMemory:
            ended.append(host)

    async with anyio.create_task_group() as tasks:
        for pipe, host, size in ((greedy, FAR, 90_000), (modest, "203.0.113.8", 40_000)):
            await pipe.incoming.send((1 << 20).to_bytes(4) + b"x" * size)
            tasks.start_soon(serve, pipe, host)
            await trio.testing.wait_all_tasks_blocked()
        assert ended == [FAR]
        tasks.cancel_scope.cancel()
    for pipe in (greedy, modest):
        await pipe.aclose()


async def test_unread_replies_share_a_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, ended = Registry(), list[int]()

    async def answer(request: Lookup, *others: object) -> Reply:
        return Refusal(error="x" * request.node_id)

    monkeypatch.setattr(registry.service, "answer", answer)
    pipes = [Pipe() for _ in range(4)]

    async def serve(number: int) -> None:
        with suppress(OutOfMemory):
            await registry.serve(pipes[number], FAR)
        ended.append(number)

    async with anyio.create_task_group() as tasks:
        for number, length in enumerate([10_000, 14_000, 9_000, 4_000]):
            await pipes[number].incoming.send(frame({"type": "lookup", "node_id": length}))
            tasks.start_soon(serve, number)
            await trio.testing.wait_all_tasks_blocked()
        # The third had no room beside the first two, the longest of which gave way.
        assert ended == [1]
        # What is taken makes room.
        await pipes[0].outgoing.receive()
        await pipes[0].incoming.send(frame({"type": "lookup", "node_id": 12_000}))
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [1]
        tasks.cancel_scope.cancel()
    for pipe in pipes:
        await pipe.aclose()


async def test_a_flood_is_answered_for_a_while_and_then_cut() -> None:
    registry, pipe = Registry(Limits(requests=10)), Pipe()
    replies: list[dict[str, Any]] = []

    async def read() -> None:
        while True:
            replies.append(framing.decode((await pipe.outgoing.receive())[4:]))

    async def flood() -> None:
        while True:
            await pipe.incoming.send(frame({"type": "beacon_list"}))

    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(flood)
        with pytest.raises(Flood):
            await registry.serve(pipe, "203.0.113.1")
        tasks.cancel_scope.cancel()
    errors = [reply.get("error", "") for reply in replies]
    assert errors.count("rate limited: too many requests on this connection") >= MAX_REFUSALS - 1
    assert errors[:20] == [""] * 20


async def test_an_unexpected_exception_is_an_internal_error_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, pipe = Registry(), Pipe()

    def explode(*arguments: object) -> None:
        raise RuntimeError("/secret/path")

    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        with monkeypatch.context() as patch:
            patch.setattr("pilotstack.registry.server.service.apply", explode)
            assert await ask(pipe, {"type": "lookup"}) == {
                "type": "error",
                "error": "internal error",
                "code": "internal",
            }
        assert (await ask(pipe, {"type": "beacon_list"}))["type"] == "beacon_list_ok"
        tasks.cancel_scope.cancel()


async def test_a_poll_is_held_until_its_time_is_over() -> None:
    registry, pipe = Registry(), Pipe()
    node_id, identity = registry.register()
    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        reply = await ask(pipe, poll_of(node_id, identity, wait=25))
        assert anyio.current_time() == pytest.approx(25, abs=0.01)
        assert reply == {
            "type": "poll_handshakes_ok",
            "requests": [],
            "responses": [],
            "waited": True,
            "invites": 0,
        }
        # Longer than we bear, none, and from a client that does not know of it.
        for wait, seconds in ((1000, 55), (0, 0), (-3, 0), ("x", 0)):
            before = anyio.current_time()
            reply = await ask(pipe, poll_of(node_id, identity, wait=wait))
            assert anyio.current_time() - before == pytest.approx(seconds, abs=0.01)
            assert reply["waited"] is True
        before = anyio.current_time()
        assert "waited" not in await ask(pipe, poll_of(node_id, identity))
        assert anyio.current_time() == before
        tasks.cancel_scope.cancel()


async def request_handshake(registry: Registry, sender: tuple[int, Identity], to: int) -> None:
    node_id, identity = sender
    request = signed(
        identity,
        f"handshake:{node_id}:{to}",
        type="request_handshake",
        from_node_id=node_id,
        to_node_id=to,
        justification="hello",
    )
    allowance = registry.service.throttle.connection("127.0.0.1", 0.0)
    reply = await registry.service.answer(request_of(request), Source("127.0.0.1", 2), allowance)
    assert isinstance(reply, RequestHandshakeReply), reply


async def test_a_held_poll_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, pipe = Registry(), Pipe()
    monkeypatch.setattr(registry.ledger, "commit", committed)
    (node_id, identity), sender = registry.register(), registry.register()
    replies: list[dict[str, Any]] = []

    async def poll() -> None:
        replies.append(await ask(pipe, poll_of(node_id, identity, wait=50)))

    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        tasks.start_soon(poll)
        with trio.move_on_at(10):
            await trio.sleep_forever()
        assert registry.service.waiters.held == 1
        await request_handshake(registry, sender, node_id)
        await trio.testing.wait_all_tasks_blocked()
        assert anyio.current_time() == pytest.approx(10, abs=0.01)
        assert [row["from_node_id"] for row in replies[0]["requests"]] == [sender[0]]
        assert registry.notified == []
        tasks.cancel_scope.cancel()
    assert registry.service.waiters.held == 0


async def committed(changes: object) -> None:
    del changes


async def test_a_wake_up_between_two_polls_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, pipe = Registry(), Pipe()
    monkeypatch.setattr(registry.ledger, "commit", committed)
    node_id, identity = registry.register()
    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        # An invitation leaves nothing in the inbox; whoever waits is told by the wake-up alone.
        assert registry.service.waiters.wake([node_id]) == [node_id]
        await ask(pipe, poll_of(node_id, identity, wait=20))
        assert anyio.current_time() == 0
        await ask(pipe, poll_of(node_id, identity, wait=20))
        assert anyio.current_time() == pytest.approx(20, abs=0.01)
        tasks.cancel_scope.cancel()


async def test_a_node_without_a_held_poll_is_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr(registry.ledger, "commit", committed)
    (node_id, _), sender = registry.register(), registry.register()
    await request_handshake(registry, sender, node_id)
    assert registry.notified == [node_id]


async def test_a_client_that_disconnects_during_its_poll_is_noticed() -> None:
    registry, pipe = Registry(), Pipe()
    node_id, identity = registry.register()
    async with pipe, anyio.create_task_group() as tasks:

        async def serve() -> None:
            with pytest.RaisesGroup(anyio.EndOfStream):
                await registry.serve(pipe)
            tasks.cancel_scope.cancel()

        await pipe.incoming.send(frame(poll_of(node_id, identity, wait=50)))
        tasks.start_soon(serve)
        with trio.move_on_at(5):
            await trio.sleep_forever()
        pipe.incoming.close()
    assert anyio.current_time() == pytest.approx(5, abs=0.01)
    assert registry.service.waiters.held == 0


async def test_requests_behind_a_held_poll_are_answered_after_it() -> None:
    registry, pipe = Registry(), Pipe()
    node_id, identity = registry.register()
    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        poll = frame(poll_of(node_id, identity, wait=20))
        await pipe.incoming.send(poll + frame({"type": "beacon_list"}))
        replies = [framing.decode((await pipe.outgoing.receive())[4:]) for _ in range(2)]
        assert [reply["type"] for reply in replies] == ["poll_handshakes_ok", "beacon_list_ok"]
        tasks.cancel_scope.cancel()


async def test_a_forged_poll_is_not_held() -> None:
    registry, pipe = Registry(), Pipe()
    (node_id, _), (_, stranger) = registry.register(), registry.register()
    async with pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve, pipe)
        reply = await ask(pipe, poll_of(node_id, stranger, wait=50))
        assert reply["error"] == "signature verification failed"
        assert anyio.current_time() == 0
        tasks.cancel_scope.cancel()


async def subscribe(registry: Registry, token: str) -> dict[str, object]:
    pipe, reply = Pipe(), dict[str, object]()

    async def read() -> None:
        reply.update(json.loads((await pipe.outgoing.receive())[4:]))
        await pipe.incoming.aclose()

    async with pipe, anyio.create_task_group() as tasks:
        await pipe.incoming.send(frame({"type": "subscribe_replication", "token": token}))
        tasks.start_soon(read)
        with suppress(anyio.EndOfStream):
            await registry.serve(pipe, FAR)
    return reply


async def test_guesses_of_the_replication_token_are_limited() -> None:
    registry = Registry(token="secret")
    assert (await subscribe(registry, "secret"))["type"] == "replication_snapshot"
    for number in range(int(WRONG_BURST)):
        reply = await subscribe(registry, f"guess {number}")
        assert reply["error"] == "invalid replication token"
    for token in ("guess", "secret"):
        assert "too many wrong tokens" in str((await subscribe(registry, token))["error"])
    assert registry.service.metrics.wrong_secrets == WRONG_BURST


async def test_standbys_that_are_refused_do_not_fill_the_log() -> None:
    registry = Registry()
    publisher = Publisher(registry.ledger)
    pipe = Pipe()
    with captured_logs() as lines:
        async with pipe, anyio.create_task_group() as tasks:

            async def read() -> None:
                for _ in range(500):
                    await pipe.outgoing.receive()

            tasks.start_soon(read)
            for _ in range(500):
                await publisher.serve(pipe, SubscribeReplication())
    assert 1 <= len(lines) <= LOG_BURST + 5
