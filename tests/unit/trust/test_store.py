"""The trust file."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.errors import InvalidArgument
from pilotstack.trust.records import Outgoing, Pending, Revoked, Trusted
from pilotstack.trust.state import COOLDOWN, Rows
from pilotstack.trust.store import TrustStore, path_beside, shared_beside

EXAMPLES = json.loads((Path(__file__).parents[2] / "vectors" / "services.json").read_text())[
    "trust_store_examples"
]
KEY = bytes(range(32))
ROWS = Rows.of(
    [Trusted(1, KEY, 1_800_000_000, mutual=True, network=3), Trusted(2, b"", 1, mutual=False)],
    [Pending(3, KEY, 'a "b"\u00e9', 5)],
    [Outgoing(4, 6)],
    [Revoked(5, 7, 307), Revoked(6, 9, 9)],
)


def test_identities_in_one_directory_keep_their_trust_apart() -> None:
    names = [path_beside(Path("/x") / name).name for name in ("identity.json", "a.json", "b.json")]
    assert names == ["trust.json", "a.trust.json", "b.trust.json"]


def test_the_default_identity_files_of_both_generations_have_the_same_trust_file(
    tmp_path: Path,
) -> None:
    key = tmp_path / "identity.key"
    assert path_beside(key).name == "trust.json"
    # One of a former release of ours stays in use.
    (tmp_path / "identity.trust.json").touch()
    assert path_beside(key).name == "identity.trust.json"
    (tmp_path / "identity.trust.json").unlink()
    # With two identities in the directory, the file is of the one that is read first.
    (tmp_path / "identity.json").touch()
    assert path_beside(key).name == "identity.trust.json"


@pytest.mark.parametrize("name", ["agent.key", "node-7.json"])
def test_an_identity_of_any_name_inherits_the_trust_of_an_existing_daemon(
    name: str, tmp_path: Path
) -> None:
    identity, shared = tmp_path / name, tmp_path / "trust.json"
    row = {
        "node_id": 2,
        "public_key": base64.b64encode(KEY).decode(),
        "approved_at": "2026-11-22T21:23:52.400070433+01:00",
        "mutual": True,
    }
    shared.write_text(json.dumps({"trusted": [row], "pending": None}))
    before = shared.read_text()
    assert shared_beside(identity) is None, "a new identity inherits nothing"
    identity.touch()
    store = TrustStore(path_beside(identity), inherited=shared_beside(identity), own_key=bytes(32))
    assert store.load().trusted == {2: Trusted(2, KEY, 1_795_379_032, mutual=True)}
    store.save(ROWS)
    assert store.load() == ROWS
    assert shared.read_text() == before
    other = TrustStore(tmp_path / "b.trust.json", inherited=shared, own_key=KEY)
    assert other.load() == Rows.of(), "a node does not trust itself: the file is of another"
    (tmp_path / "identity.json").touch()
    assert shared_beside(identity) is None, "the file is of that identity"


def test_saved_rows_are_loaded_again_from_a_private_file(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust.json")
    assert store.load() == Rows.of()
    store.save(ROWS)
    assert TrustStore(store.path).load() == ROWS
    assert stat.S_IMODE((tmp_path / "trust.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["trust.json"]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_files_of_existing_nodes_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text(json.dumps(EXAMPLES[name], indent=2))
    rows = TrustStore(path).load()
    for table in ("trusted", "pending", "outgoing", "revoked"):
        wanted = [row["node_id"] for row in EXAMPLES[name].get(table) or []]
        assert list(getattr(rows, table)) == wanted
    for row in rows.revoked.values():
        assert row.until - row.at == COOLDOWN


def test_times_of_any_year_are_written_as_they_are_read(tmp_path: Path) -> None:
    # The zero time of existing nodes, and the latest.
    times = [-62_135_596_800, 0, 253_402_300_799]
    rows = Rows.of([Trusted(n, KEY, time, mutual=True) for n, time in enumerate(times, 1)])
    store = TrustStore(tmp_path / "trust.json")
    store.save(rows)
    assert '"0001-01-01T00:00:00Z"' in (tmp_path / "trust.json").read_text()
    assert TrustStore(store.path).load() == rows


def test_members_of_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text('{"trusted": null, "theirs": {"a": 1}}')
    store = TrustStore(path)
    store.load()
    store.save(ROWS)
    assert json.loads(path.read_text())["theirs"] == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"trusted": {}}',
        '{"trusted": [1]}',
        '{"trusted": [{"node_id": 0}]}',
        '{"trusted": [{"node_id": 1}]}',
        '{"trusted": [{"node_id": 1, "approved_at": "yesterday"}]}',
        '{"trusted": [{"node_id": 1, "approved_at": "2026-11-22T21:17:52Z", "public_key": "AA"}]}',
        "[" * 10_000,
    ],
)
def test_an_invalid_file_is_refused_and_left_unchanged(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match="trust records") as error:
        TrustStore(path).load()
    assert error.value.hint
    assert path.read_text() == text


def test_a_failed_write_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trust.json"
    store = TrustStore(path)
    store.save(ROWS)

    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            store.save(Rows.of())
    assert TrustStore(path).load() == ROWS


def test_without_a_path_nothing_is_stored() -> None:
    store = TrustStore(None)
    store.save(ROWS)
    assert store.load() == Rows.of()


@given(cut=st.integers(0, 200), flip=st.integers(0, 255))
def test_damage_is_refused_or_read_but_never_raises_otherwise(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("trust") / "trust.json"
    TrustStore(path).save(ROWS)
    data = bytearray(path.read_bytes())
    data[cut % len(data)] ^= flip
    path.write_bytes(bytes(data[: len(data) - cut // 2]))
    is_whole = flip == 0 and cut < 2
    try:
        rows = TrustStore(path).load()
    except InvalidArgument:
        assert not is_whole
    else:
        assert isinstance(rows, Rows)
        assert rows == ROWS or not is_whole
    assert path.exists()
