"""What a standby takes from its primary, and what it must not believe."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.registry import snapshot_of
from tests.support.replication import Pair

from pilotstack.errors import InternalError, PilotError
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.standing import MAX_TERM
from pilotstack.registry.replication import standby as standby_module
from pilotstack.registry.replication.standby import _Resync
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.model.rows import Change


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
