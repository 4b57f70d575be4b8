"""Tables of peers and of the ways to them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from pilotstack.cli.screen import Screen
from pilotstack.cli.status import CANDIDATES, PEERS, candidate_rows, path_row
from pilotstack.cli.text import duration
from pilotstack.ipc.answers import CandidateInfo, PeerInfo

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECT = PeerInfo(
    node_id=3,
    endpoint="198.51.100.200:40000",
    encrypted=True,
    authenticated=True,
    path="direct",
    rtt_ms=23.44,
    mtu=1472,
    loss=0.0123,
    path_age=7260.0,
    candidates=(CandidateInfo("10.0.0.9:4000", "host", "failed", "no answer"),),
)
RELAYED = PeerInfo(
    node_id=4,
    endpoint="198.51.100.7:1",
    encrypted=True,
    relay=True,
    path="relay",
    beacon="203.0.113.1:9001",
    path_age=4.0,
)
TRIED = PeerInfo(node_id=5)


def printed(monkeypatch: pytest.MonkeyPatch, show: Callable[[Screen], object], columns: int) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", str(columns))
    show(Screen())
    return out.getvalue()


def test_a_peers_row_shows_the_path_in_use() -> None:
    assert path_row(DIRECT) == {
        "node": 3,
        "path": "direct",
        "endpoint": "198.51.100.200:40000",
        "rtt": "23.4",
        "mtu": 1472,
        "loss": "1.2%",
        "age": "2h",
    }
    relayed = path_row(RELAYED)
    assert (relayed["path"], relayed["endpoint"], relayed["rtt"]) == (
        *("relay", "203.0.113.1:9001"),
        "",
    )
    assert path_row(TRIED)["path"] == "none yet"


@pytest.mark.parametrize("columns", [40, 80])
def test_the_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    peers = [DIRECT, RELAYED, TRIED]

    def show(screen: Screen) -> None:
        screen.rows("peers", PEERS, [path_row(peer) for peer in peers])
        screen.rows("candidates", CANDIDATES, candidate_rows(peers))

    lines = printed(monkeypatch, show, columns).splitlines()
    assert max(map(len, lines)) <= columns
    (row,) = (line for line in lines if "198.51.100.200:40000" in line)
    assert ("direct" in row) is (columns == 80), "one line where there is room"
    assert any("no answer" in line for line in lines)


def test_daemons_that_do_not_tell_have_no_candidates() -> None:
    assert list(candidate_rows([TRIED])) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (200_000, "2d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
