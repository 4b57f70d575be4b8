"""The stored peers that are dialled after a restart."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pilotstack.daemon.recent_peers import MAX_PEERS, RecentPeers

if TYPE_CHECKING:
    from pathlib import Path


def test_peers_are_stored_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    peers = RecentPeers(path)
    peers.note([5, 7])
    peers.save()
    assert RecentPeers(path).ids == [5, 7]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["peers.json"]


def test_a_pipe_instead_of_the_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "peers.json")
    assert RecentPeers(tmp_path / "peers.json").ids == []


def test_the_newest_peers_are_kept(tmp_path: Path) -> None:
    peers = RecentPeers(None)
    peers.note(range(1, 3 * MAX_PEERS))
    assert peers.ids == list(range(2 * MAX_PEERS, 3 * MAX_PEERS))
    peers.save()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"peers": 5}', b'{"peers": ["x", -1, true, 4294967296]}']
)
def test_a_file_that_makes_no_sense_names_nobody(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(text)
    assert RecentPeers(path).ids == []


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    peers = RecentPeers(tmp_path / "missing" / "peers.json")
    peers.note([1])
    peers.save()
    assert (peers.ids, list(tmp_path.iterdir())) == ([1], [])
