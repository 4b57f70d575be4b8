"""What a primary sends to its standbys, and which standbys it serves."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest
from tests.support.memory import Pipe
from tests.support.registry import request_of
from tests.support.replication import Pair, body, registered

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import Change, Request
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing
from pilotstack.registry.protocol.requests.replication import SubscribeReplication
from pilotstack.registry.replication import primary
from pilotstack.registry.replication.primary import QUEUE, Log, Publisher, _Subscriber
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term


def test_deltas_are_numbered_and_the_last_ones_kept() -> None:
    state, log = State(Policy(salt=os.urandom(32))), Log(limit=2000)
    frames = [frame for number in range(1, 30) for frame in log.add(registered(state, number))]
    assert [body(frame)["seq"] for frame in frames] == list(range(1, 30))
    assert log.since(log.epoch, 29) == []
    assert log.since(log.epoch, 27) == frames[-2:]
    # Gone, not there yet, and of another life.
    assert log.since(log.epoch, 1) is None
    assert log.since(log.epoch, 30) is None
    assert log.since("another", 28) is None


def test_a_slow_standby_is_sent_a_snapshot() -> None:
    slow = _Subscriber(takes_deltas=True)
    slow.is_behind = False
    frame = b"x" * (QUEUE // 4)
    for _ in range(4):
        slow.push(frame)
    assert (slow.size, slow.is_behind) == (QUEUE, False)
    slow.push(frame)
    assert (slow.size, slow.take(), slow.is_behind) == (0, None, True)
    # Until it has the state, deltas are no use to it.
    slow.push(frame)
    assert slow.size == 0


@pytest.mark.anyio
async def test_heartbeats_tell_standbys_the_time() -> None:
    clock = Clock(monotonic=lambda: 0.0, wall=lambda: 77.0, boot="b")
    publisher = Publisher(Ledger(State(Policy()), MemoryStore()), token="secret", clock=clock)
    assert body(publisher._heartbeat(_Subscriber(takes_deltas=True)))["time"] == 77.0
    assert "time" not in body(publisher._heartbeat(_Subscriber(takes_deltas=False)))


@pytest.mark.anyio
async def test_pushes_go_on_while_a_standby_sleeps_and_it_ends_up_with_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(primary, "QUEUE", 2000)
    pair = Pair()
    pair.change(1)
    subscribe = SubscribeReplication(token="secret", deltas=1)
    async with Pipe() as pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(pair.publisher.serve, pipe, subscribe)
        # The first part is read, and then nothing for a while.
        await pair.take(body(await pipe.outgoing.receive()))
        for number in range(2, 100):
            pair.change(number)
        kinds = []
        while pair.standby.seq < 99:
            frame = body(await pipe.outgoing.receive())
            kinds.append(frame["type"])
            await pair.take(frame)
        assert pair.names == {f"node-{number}" for number in range(1, 100)}
        # Not delta by delta, but the state again.
        assert kinds.count("replication_snapshot_end") == 2
        pair.change(100)
        await pair.take(body(await pipe.outgoing.receive()))
        assert "node-100" in pair.names
        assert pair.publisher.standbys == 1
        pipe.incoming.close()
        while pair.publisher.standbys:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_standby_that_reconnects_soon_is_sent_what_it_missed() -> None:
    pair = Pair()
    pair.change(1)
    await pair.take(*pair.snapshot())
    missed = [pair.change(number) for number in (2, 3)]
    log = pair.publisher.log
    subscribe = SubscribeReplication(
        token="secret",
        deltas=1,
        epoch=log.epoch,
        seq=1,
    )
    async with Pipe() as pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(pair.publisher.serve, pipe, subscribe)
        frames = [body(await pipe.outgoing.receive()) for _ in missed]
        assert frames == missed
        tasks.cancel_scope.cancel()


def test_a_large_snapshot_is_sent_in_parts() -> None:
    state = State(Policy(salt=os.urandom(32)))
    for number in range(1, 1500):
        registered(state, number)
    view = snapshot.View(state)
    frames = list(primary._parts(view))
    assert len(frames) > 1
    assert max(map(len, frames)) < framing.MAX_MESSAGE
    text = "".join(body(frame)["text"] for frame in frames)
    assert text.encode() == b"".join(view.chunks())
    copy = snapshot.load(snapshot.decode(text.encode()), 0.0)
    assert copy.by_hostname == state.by_hostname


def refusal(publisher: Publisher, **members: object) -> str:
    """Why a standby is not served; empty if it is."""
    request = request_of({"type": "subscribe_replication", **members})
    assert isinstance(request, SubscribeReplication)
    refused = publisher._refusal(request)
    return refused.error if refused else ""


def test_a_standby_needs_the_token_unless_replication_is_open() -> None:
    ledger = Ledger(State(), MemoryStore())
    closed, guarded = Publisher(ledger), Publisher(ledger, token="secret")
    both, legacy = Publisher(ledger, token="secret", is_open=True), Publisher(ledger, is_open=True)
    refusals = {
        publisher: [
            refusal(publisher, **token)
            for token in ({}, {"token": "secret"}, {"token": "guess"}, {"token": 7})
        ]
        for publisher in (closed, guarded, both, legacy)
    }
    no, wrong = "replication not configured", "invalid replication token"
    assert refusals[closed] == [no] * 4
    assert refusals[guarded] == [wrong, "", wrong, wrong]
    assert refusals[both] == ["", "", wrong, ""]
    assert refusals[legacy] == [""] * 4


def waiting(state: State, targets: int, senders: int, text: str) -> None:
    for target in range(1, targets + 1):
        for sender in range(1, senders + 1):
            state.put("requests", (target, sender), Request(text, 1))


def test_a_full_inbox_fits_the_frames_of_standbys() -> None:
    state = State(Policy(salt=os.urandom(32)))
    registered(state, 1)
    waiting(state, 130, 20, '\x01\u20ac\U0001f310"\\' * 200)
    frames = list(primary._parts(snapshot.View(state)))
    assert max(map(len, frames)) < framing.MAX_MESSAGE
    text = "".join(body(frame)["text"] for frame in frames)
    copy = snapshot.load(snapshot.decode(text.encode()), 0.0)
    assert copy.requests.groups == state.requests.groups


def test_long_deltas_are_split() -> None:
    rows = [Request("\x01" * 1024, 1)] * 1000
    changes = [Change("requests", (1, sender), None, row) for sender, row in enumerate(rows, 1)]
    log = Log()
    frames = log.add(changes)
    assert max(map(len, frames)) < framing.MAX_MESSAGE
    assert sum(len(body(frame)["changes"]) for frame in frames) == 1000
    assert log.since(log.epoch, 0) == frames


@pytest.mark.anyio
async def test_a_state_that_first_generation_standbys_cannot_take_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(primary, "FRAME", 2000)
    pair = Pair()
    for number in range(1, 30):
        pair.change(number)
    subscribe = SubscribeReplication(token="secret")
    async with Pipe() as pipe, anyio.create_task_group() as tasks:
        tasks.start_soon(pair.publisher.serve, pipe, subscribe)
        assert body(await pipe.outgoing.receive())["error"] == "snapshot too long"


@pytest.mark.anyio
async def test_a_standby_of_another_cluster_is_not_served() -> None:
    own = Term(None)
    own.lead()
    publisher = Publisher(
        Ledger(State(), MemoryStore()), token="secret", standing=Standing(own, "secret")
    )
    assert "another cluster" in refusal(publisher, token="secret", cluster="another")
    assert refusal(publisher, token="secret", cluster=own.cluster) == ""
    own.replace(1)
    assert "replaced" in refusal(publisher, token="secret", cluster=own.cluster)
