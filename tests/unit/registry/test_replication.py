"""Replication without sockets: numbering, resuming, slow standbys, terms."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.memory import Pipe
from tests.support.registries import signed
from tests.support.registry import apply, request_of, snapshot_of

from pilotstack.daemon.identity import Identity
from pilotstack.errors import InternalError, PilotError
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import Change, Request
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing, lenient, values
from pilotstack.registry.protocol.requests.replication import Frame, SubscribeReplication
from pilotstack.registry.protocol.standing import MAX_TERM
from pilotstack.registry.replication import primary
from pilotstack.registry.replication import standby as standby_module
from pilotstack.registry.replication.primary import QUEUE, Log, Publisher, _Subscriber
from pilotstack.registry.replication.standby import Standby, _Resync
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def registered(state: State, number: int) -> tuple[Change, ...]:
    identity = Identity.generate()
    key = values.encode_base64(identity.public_key)
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


class Pair:
    """A primary's publisher and a standby's ledger, with the frames passed by hand."""

    def __init__(self, term: Path | None = None) -> None:
        self.state = State(Policy(salt=os.urandom(32)))
        self.publisher = Publisher(Ledger(self.state, MemoryStore()), token="secret")
        self.copy = Ledger(State(Policy(is_standby=True)), MemoryStore())
        self.standby = Standby(
            self.copy,
            ("127.0.0.1", 1),
            token="secret",
            trust=None,
            standing=Standing(Term(term), "secret"),
        )

    def change(self, number: int) -> dict[str, Any]:
        self.publisher.publish(registered(self.state, number))
        frames = self.publisher.log.since(self.publisher.log.epoch, self.publisher.log.seq - 1)
        assert frames is not None
        return body(frames[-1])

    def snapshot(self, **members: object) -> list[dict[str, Any]]:
        text = b"".join(snapshot.View(self.state).chunks()).decode()
        parts = [text[at : at + 100] for at in range(0, len(text), 100)]
        log = self.publisher.log
        end = {"epoch": log.epoch, "seq": log.seq, "term": 0, **members}
        return [
            *({"type": "replication_snapshot_part", "text": part} for part in parts),
            {"type": "replication_snapshot_end", **end},
        ]

    async def take(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self.standby._take(lenient.convert(frame, Frame))

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
    with pytest.raises(_Resync, match="a gap"):
        await pair.take(fourth)
    with pytest.raises(_Resync, match="a gap"):
        await pair.take({"type": "heartbeat", "epoch": second["epoch"], "seq": 4})
    assert pair.names == {"node-1", "node-2"}
    await pair.take(third, fourth, {"type": "heartbeat", "epoch": second["epoch"], "seq": 4})
    assert pair.names == {f"node-{number}" for number in (1, 2, 3, 4)}
    with pytest.raises(_Resync, match="another epoch"):
        await pair.take(pair.change(5) | {"epoch": "another"})


@pytest.mark.anyio
async def test_a_standby_follows_the_clock_of_its_primary() -> None:
    pair = Pair()
    # Its own host believes to be in another year.
    clock = pair.standby._clock = Clock(monotonic=lambda: 50.0, wall=lambda: 9e9, boot="b")
    pair.change(1)
    await pair.take(*pair.snapshot(time=1000.0))
    assert clock.now() == 1000.0
    epoch = pair.publisher.log.epoch
    beat: dict[str, Any] = {"type": "heartbeat", "epoch": epoch, "seq": 1, "time": 1015}
    await pair.take(beat)
    assert clock.now() == 1015.0
    for odd in ("x", None, True, -1, 1e300, [1]):
        await pair.take(beat | {"time": odd})
    assert clock.now() == 1015.0
    # What it copies is as new as that.
    await pair.take(pair.change(2))
    assert pair.copy.state.seen[2] == 1015.0


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


class FullStore(MemoryStore):
    """A store on a disk that fills up."""

    is_full = False

    def append(self, changes: Sequence[Change]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.anyio
async def test_a_standby_with_a_full_disk_changes_nothing() -> None:
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
    await pair.take({"type": "replication_snapshot", "snapshot": snapshot_of(other.state)})
    assert pair.names == {"node-2"}
    # Sequence numbers are unknown now, so nothing is resumed.
    with pytest.raises(_Resync, match="another epoch"):
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
async def test_malformed_frames_of_a_primary_change_nothing(frame: dict[str, Any]) -> None:
    pair = Pair()
    with pytest.raises(Exception):  # noqa: B017, PT011 - any that the loop of the standby handles
        await pair.take(frame)
    assert not pair.copy.state.nodes


@pytest.mark.anyio
async def test_unknown_frames_are_ignored() -> None:
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
        await follower.take(*follower.snapshot(term=3, cluster=again.cluster))
    await follower.take(*follower.snapshot(term=4, cluster=again.cluster))
    path.write_text("{")
    with pytest.raises(InternalError) as broken:
        Term(path)
    assert broken.value.hint


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


async def refused(pair: Pair, other: Pair, **members: object) -> str:
    with pytest.raises(PilotError) as error:
        await pair.take(*other.snapshot(**members))
    return error.value.message


@pytest.mark.anyio
async def test_an_empty_foreign_or_outdated_primary_replaces_nothing() -> None:
    pair, empty, other = Pair(), Pair(), Pair()
    for number in (1, 2, 3):
        pair.change(number)
    await pair.take(*pair.snapshot(cluster="c"))
    assert "is empty" in await refused(pair, empty, cluster="c")
    other.change(9)
    assert "is of cluster d" in await refused(pair, other, cluster="d")
    assert "names no cluster" in await refused(pair, other)
    assert "gone back" in await refused(pair, other, cluster="c")
    assert pair.names == {"node-1", "node-2", "node-3"}
    # Another standby was promoted, and was not as far.
    await pair.take(*other.snapshot(cluster="c", term=1))
    assert pair.names == {"node-9"}


@pytest.mark.anyio
@pytest.mark.parametrize("term", [MAX_TERM, (1 << 32) - 1])
async def test_a_term_out_of_range_is_not_adopted(tmp_path: Path, term: int) -> None:
    pair = Pair(tmp_path / "term")
    pair.change(1)
    with pytest.raises(PilotError, match="which no registry reaches"):
        await pair.take(*pair.snapshot(cluster="ours", term=term))
    assert not pair.names
    # It starts again, and follows.
    await pair.take(*pair.snapshot(cluster="ours"))
    assert Term(tmp_path / "term").number == 0
    with pytest.raises(PilotError, match="which no registry reaches"):
        await pair.take(pair.change(2) | {"cluster": "ours", "term": term})


@pytest.mark.anyio
async def test_a_state_replaced_by_a_higher_term_is_kept_aside(tmp_path: Path) -> None:
    pair, other = Pair(), Pair()
    store = FileStore(tmp_path / "registry.json")
    pair.copy = pair.standby._ledger = Ledger(store.load(0), store)
    for number in (1, 2):
        pair.change(number)
    await pair.take(*pair.snapshot(cluster="c"))
    other.change(9)
    await pair.take(*other.snapshot(cluster="c", term=1))
    store.close()
    (kept,) = kept_in(tmp_path)
    assert set(snapshot.load(snapshot.decode(kept.read_bytes()), 0.0).nodes) == {1, 2}


def kept_in(directory: Path) -> list[Path]:
    return list(directory.glob("registry.json.diverged-*"))


KEY = values.encode_base64(b"k" * 32)
GOOD = {"t": "nodes", "k": 1, "v": {"id": 1, "public_key": KEY}}
BAD_ROWS: list[dict[str, Any]] = [
    GOOD | {"k": [1, 2], "v": None},
    GOOD | {"k": [1, "x"], "v": None},
    GOOD | {"k": 0, "v": None},
    GOOD | {"k": True, "v": None},
    GOOD | {"v": {"id": 1, "public_key": "AAAA"}},
    GOOD | {"v": {"id": 1, "public_key": KEY, "registered": 1 << 62}},
    GOOD | {"v": {"id": 1, "public_key": KEY, "gone_at": -1}},
    GOOD | {"v": {"id": 1, "public_key": KEY, "polo_score": 1 << 80}},
    GOOD | {"v": {"id": 1, "public_key": KEY, "hostname": "x" * (1 << 21)}},
    {"t": "claims", "k": 1, "v": {"created": 1}},
    {"t": "claims", "k": [1, "2"], "v": {"created": 1}},
    {"t": "claims", "k": [1, -2], "v": {"created": 1}},
    {"t": "claims", "k": [1, 2], "v": {"created": 1 << 60}},
    {"t": "members", "k": [1 << 20, 2], "v": {}},
    {"t": "members", "k": ["1", 2], "v": {}},
    {"t": "rotations", "k": [1, 2], "v": {"timestamp": 1}},
    {"t": "networks", "k": 7, "v": {"id": 7, "name": "n", "rules": "{"}},
    {"t": "networks", "k": 7, "v": {"id": 7, "name": "n", "expr_policy": "[" * 5000}},
    {"t": "networks", "k": 7, "v": {"id": 8, "name": "n"}},
    {"t": "networks", "k": 7, "v": {"id": 7, "name": ""}},
]


@pytest.mark.anyio
@pytest.mark.parametrize("row", BAD_ROWS, ids=range(len(BAD_ROWS)))
async def test_a_delta_is_validated_before_it_is_stored(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    pair = Pair()
    store = FileStore(tmp_path / "registry.json")
    pair.copy = pair.standby._ledger = Ledger(store.load(0), store)
    pair.change(5)
    await pair.take(*pair.snapshot())
    delta = {"type": "replication_delta", "epoch": pair.publisher.log.epoch, "seq": 2}
    with pytest.raises(ValueError, match=r"."):
        await pair.take(delta | {"changes": [GOOD | {"k": 2, "v": None}, row]})
    assert pair.names == {"node-5"}
    store.close()
    again = FileStore(tmp_path / "registry.json")
    assert set(again.load(0).by_hostname) == {"node-5"}
    again.close()


@pytest.mark.anyio
async def test_a_snapshot_is_validated_before_it_is_stored() -> None:
    pair = Pair()
    pair.change(1)
    await pair.take(*pair.snapshot())
    for row in (
        {"id": 3, "public_key": KEY, "registered": 1 << 62},
        {"id": 3, "public_key": KEY, "polo_score": 1 << 80},
    ):
        rows = {"next_node": 9, "nodes": {"3": row}, "networks": {}}
        with pytest.raises(ValueError, match="no "):
            await pair.take({"type": "replication_snapshot", "snapshot": rows})
    assert pair.names == {"node-1"}


@pytest.mark.anyio
async def test_nothing_that_a_primary_sends_ends_its_standby(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standby_module, "RETRY", (0, 0))
    pair = Pair()
    errors: list[Exception] = [RecursionError(), AssertionError(), KeyError("x"), MemoryError()]

    async def follow() -> None:
        if errors:
            raise errors.pop()
        await anyio.sleep_forever()

    monkeypatch.setattr(pair.standby, "_follow", follow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pair.standby.run)
        while errors:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


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
