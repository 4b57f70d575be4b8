"""Replication without sockets: numbering, resuming, slow standbys, terms."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream
from tests.support.registries import signed

from pilotstack.daemon.identity import Identity
from pilotstack.errors import InternalError, PilotError
from pilotstack.registry import messages, replication, snapshot
from pilotstack.registry.ledger import Ledger
from pilotstack.registry.replication import QUEUE, Log, Publisher, _Subscriber
from pilotstack.registry.standby import Standby
from pilotstack.registry.state import Policy, Source, State, apply
from pilotstack.registry.store import MemoryStore
from pilotstack.registry.term import Term

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.records import Change


def registered(state: State, number: int) -> tuple[Change, ...]:
    identity = Identity.generate()
    key = messages.encode_base64(identity.public_key)
    request = signed(
        identity,
        f"register:127.0.0.1:{number}:{key}",
        type="register",
        public_key=key,
        listen_addr=f"127.0.0.1:{number}",
        hostname=f"node-{number}",
    )
    return apply(state, request, Source("127.0.0.1", 1), 0.0).changes


def body(frame: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame[4:])
    return message


def test_deltas_are_numbered_and_the_last_ones_kept() -> None:
    state, log = State(Policy(salt=os.urandom(32))), Log(limit=2000)
    frames = [log.add(registered(state, number)) for number in range(1, 30)]
    assert [body(frame)["seq"] for frame in frames] == list(range(1, 30))
    assert log.since(log.epoch, 29) == []
    assert log.since(log.epoch, 27) == frames[-2:]
    # Gone, not there yet, and of another life.
    assert log.since(log.epoch, 1) is None
    assert log.since(log.epoch, 30) is None
    assert log.since("another", 28) is None


def test_a_slow_standby_is_sent_the_state_instead_of_being_waited_for() -> None:
    slow = _Subscriber(takes_deltas=True)
    slow.is_behind = False
    frame = b"x" * (QUEUE // 4)
    for _ in range(4):
        slow.push(frame)
    assert not slow.is_behind
    slow.push(frame)
    assert slow.is_behind
    assert (slow.size, slow.take()) == (0, None)
    # Until it has the state, deltas are no use to it.
    slow.push(frame)
    assert slow.size == 0


class Pair:
    """A primary's publisher and a standby's ledger, with the frames passed by hand."""

    def __init__(self, term: Path | None = None) -> None:
        self.state = State(Policy(salt=os.urandom(32)))
        self.publisher = Publisher(Ledger(self.state, MemoryStore()), token="secret")
        self.copy = Ledger(State(Policy(is_standby=True)), MemoryStore())
        self.standby = Standby(
            self.copy, ("127.0.0.1", 1), token="secret", trust=None, term=Term(term)
        )

    def change(self, number: int) -> dict[str, Any]:
        self.publisher.publish(registered(self.state, number))
        frames = self.publisher.log.since(self.publisher.log.epoch, self.publisher.log.seq - 1)
        assert frames is not None
        return body(frames[-1])

    def snapshot(self, **members: object) -> list[dict[str, Any]]:
        text = b"".join(self.state.view().chunks()).decode()
        parts = [text[at : at + 100] for at in range(0, len(text), 100)]
        log = self.publisher.log
        end = {"epoch": log.epoch, "seq": log.seq, "term": 0, **members}
        return [
            *({"type": "replication_snapshot_part", "text": part} for part in parts),
            {"type": "replication_snapshot_end", **end},
        ]

    async def take(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self.standby._take(frame)

    @property
    def names(self) -> set[str]:
        return set(self.copy.state.by_hostname)


@pytest.mark.anyio
async def test_a_standby_follows_deltas_and_notices_a_gap() -> None:
    pair = Pair()
    pair.change(1)
    await pair.take(*pair.snapshot())
    assert pair.names == {"node-1"}
    assert pair.copy.state.policy.is_standby
    second, third, fourth = (pair.change(number) for number in (2, 3, 4))
    await pair.take(second)
    assert pair.names == {"node-1", "node-2"}
    with pytest.raises(Exception, match="a gap"):
        await pair.take(fourth)
    with pytest.raises(Exception, match="a gap"):
        await pair.take({"type": "heartbeat", "epoch": second["epoch"], "seq": 4})
    assert pair.names == {"node-1", "node-2"}
    await pair.take(third, fourth, {"type": "heartbeat", "epoch": second["epoch"], "seq": 4})
    assert pair.names == {f"node-{number}" for number in (1, 2, 3, 4)}
    with pytest.raises(Exception, match="another epoch"):
        await pair.take(pair.change(5) | {"epoch": "another"})


class Link(ByteStream):
    """The primary's end of a subscription in memory; frames wait until they are read."""

    def __init__(self) -> None:
        self._send, self.frames = anyio.create_memory_object_stream[bytes](0)
        self.standby, self._receive = anyio.create_memory_object_stream[bytes](0)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._receive.receive()

    async def send(self, item: bytes) -> None:
        await self._send.send(item)

    async def send_eof(self) -> None:
        pytest.fail("nobody half-closes these")

    async def aclose(self) -> None:
        for stream in (self._send, self.frames, self.standby, self._receive):
            stream.close()


@pytest.mark.anyio
async def test_pushes_go_on_while_a_standby_sleeps_and_it_ends_up_with_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication, "QUEUE", 2000)
    pair = Pair()
    pair.change(1)
    subscribe = {"type": "subscribe_replication", "token": "secret", "deltas": 1}
    async with Link() as link, anyio.create_task_group() as tasks:
        tasks.start_soon(pair.publisher.serve, link, subscribe)
        # The first part is read, and then nothing for a while.
        await pair.take(body(await link.frames.receive()))
        for number in range(2, 100):
            pair.change(number)
        kinds = []
        while pair.standby.seq < 99:
            frame = body(await link.frames.receive())
            kinds.append(frame["type"])
            await pair.take(frame)
        assert pair.names == {f"node-{number}" for number in range(1, 100)}
        # Not delta by delta, but the state again.
        assert kinds.count("replication_snapshot_end") == 2
        pair.change(100)
        await pair.take(body(await link.frames.receive()))
        assert "node-100" in pair.names
        assert pair.publisher.standbys == 1
        link.standby.close()
        while pair.publisher.standbys:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_who_comes_back_soon_is_sent_what_it_missed() -> None:
    pair = Pair()
    pair.change(1)
    await pair.take(*pair.snapshot())
    missed = [pair.change(number) for number in (2, 3)]
    log = pair.publisher.log
    subscribe = {
        "type": "subscribe_replication",
        "token": "secret",
        "deltas": 1,
        "epoch": log.epoch,
        "seq": 1,
    }
    async with Link() as link, anyio.create_task_group() as tasks:
        tasks.start_soon(pair.publisher.serve, link, subscribe)
        frames = [body(await link.frames.receive()) for _ in missed]
        assert frames == missed
        tasks.cancel_scope.cancel()


def test_a_large_state_is_sent_in_parts_that_make_it_up_again() -> None:
    state = State(Policy(salt=os.urandom(32)))
    for number in range(1, 1500):
        registered(state, number)
    view = state.view()
    frames = replication._parts(view)
    assert len(frames) > 1
    assert max(map(len, frames)) < messages.MAX_MESSAGE
    text = "".join(body(frame)["text"] for frame in frames)
    assert text.encode() == b"".join(view.chunks())
    copy = State.load(snapshot.decode(text.encode()), 0.0)
    assert copy.by_hostname == state.by_hostname


class FullStore(MemoryStore):
    """A store on a disk that fills up."""

    is_full = False

    def append(self, changes: Sequence[Change]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.anyio
async def test_a_standby_whose_disk_is_full_stays_where_it_is() -> None:
    pair, store = Pair(), FullStore()
    pair.copy._store = store
    await pair.take(*pair.snapshot())
    first, second = pair.change(1), pair.change(2)
    await pair.take(first)
    store.is_full = True
    with pytest.raises(OSError, match="No space"):
        await pair.take(second)
    assert (pair.names, pair.standby.seq, pair.copy.is_failing) == ({"node-1"}, 1, True)
    store.is_full = False
    await pair.take(second)
    assert (pair.standby.seq, pair.copy.is_failing) == (2, False)


@pytest.mark.anyio
async def test_a_snapshot_replaces_everything() -> None:
    pair, other = Pair(), Pair()
    pair.change(1)
    await pair.take(*pair.snapshot())
    other.change(2)
    await pair.take({"type": "replication_snapshot", "snapshot": other.state.snapshot()})
    assert pair.names == {"node-2"}
    # Sequence numbers are unknown now, so nothing is resumed.
    with pytest.raises(Exception, match="another epoch"):
        await pair.take(pair.change(3))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "frame",
    [
        {"type": "replication_snapshot", "snapshot": [1]},
        {"type": "replication_snapshot", "snapshot": {"nodes": 3}},
        {"type": "replication_snapshot_end", "epoch": "e", "seq": 1, "term": 0},
        {"type": "replication_delta", "epoch": "", "seq": 1, "changes": {}},
        {"type": "replication_delta", "epoch": "", "seq": 1, "changes": [{"t": "nodes"}]},
        {"type": "replication_delta", "epoch": "", "seq": 1, "changes": [{"t": "x", "k": 1}]},
        {"type": "error", "error": "invalid replication token"},
    ],
)
async def test_nonsense_from_a_primary_changes_nothing(frame: dict[str, Any]) -> None:
    pair = Pair()
    with pytest.raises(Exception):  # noqa: B017, PT011 - any that the loop of the standby handles
        await pair.take(frame)
    assert not pair.copy.state.nodes


@pytest.mark.anyio
async def test_what_is_unknown_is_passed_over() -> None:
    pair = Pair()
    await pair.take({"type": "heartbeat"}, {"type": "replication_delta"}, {"type": "later"}, {})
    assert not pair.standby.is_current


@pytest.mark.anyio
async def test_terms_count_promotions_and_old_primaries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "term"
    pair = Pair(path)
    await pair.take(*pair.snapshot(term=3))
    promoted = Term(path)
    assert (promoted.lead(), promoted.number) == (True, 4)
    # Being started again is no promotion.
    again = Term(path)
    assert (again.lead(), again.number) == (False, 4)
    follower = Pair(path)
    with pytest.raises(PilotError, match="has been replaced"):
        await follower.take(*follower.snapshot(term=3))
    await follower.take(*follower.snapshot(term=4))
    path.write_text("{")
    with pytest.raises(InternalError) as broken:
        Term(path)
    assert broken.value.hint


def test_who_may_follow() -> None:
    ledger = Ledger(State(), MemoryStore())
    subscribe: dict[str, object] = {"type": "subscribe_replication"}
    closed, guarded = Publisher(ledger), Publisher(ledger, token="secret")
    both, legacy = Publisher(ledger, token="secret", is_open=True), Publisher(ledger, is_open=True)
    refusals = {
        publisher: [
            publisher._refusal(subscribe | token)
            for token in ({}, {"token": "secret"}, {"token": "guess"}, {"token": 7})
        ]
        for publisher in (closed, guarded, both, legacy)
    }
    no, wrong = "replication not configured", "invalid replication token"
    assert refusals[closed] == [no] * 4
    assert refusals[guarded] == [wrong, "", wrong, wrong]
    assert refusals[both] == ["", "", wrong, ""]
    assert refusals[legacy] == [""] * 4
