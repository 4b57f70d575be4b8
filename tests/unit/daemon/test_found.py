"""What existing programs left, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pilotstack import wellknown
from pilotstack.daemon import found, lifecycle
from pilotstack.daemon import identity as identities
from pilotstack.daemon.identity import Identity

if TYPE_CHECKING:
    from pathlib import Path


def rows(home: Path, store: Path | None = None) -> dict[str, found.Found]:
    return {row.what: row for row in found.look(home, store)}


def test_an_empty_home_has_nothing(tmp_path: Path) -> None:
    assert rows(tmp_path) == {}


@pytest.mark.parametrize("name", ["identity.json", "identity.key"])
def test_everything_of_an_existing_home_is_found_and_left_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(identities.encode(Identity(b"\1" * 32)))
    trusted = {"node_id": 2, "public_key": "", "approved_at": "2026-11-22T21:23:52Z"}
    (tmp_path / "trust.json").write_text(json.dumps({"trusted": [trusted]}))
    settings = {"email": "a@example.com", "keepalive": "60s", "webhook": "http://x", "odd": 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "pilot.pid").write_text("99999999")
    (tmp_path / "pilot.log").write_text("hello\n")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "TEXT-1.json").touch()
    (tmp_path / "account.json").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    shown = rows(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert shown["identity"].path.endswith(name)
    assert shown["trust"].found == "1 trusted, 0 pending"
    assert shown["trust"].becomes.endswith("/trust.json")
    assert "webhook: no effect" in shown["settings"].becomes
    assert "odd: unknown" in shown["settings"].becomes
    assert shown["settings"].is_problem
    assert shown["pid file"].found == "of no running daemon"
    assert shown["inbox"].found == "1 files"
    assert not shown["identity"].is_problem
    monkeypatch.setattr(wellknown, "home", lambda: tmp_path)
    assert lifecycle.flags_of({})[-1].endswith(name)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    for name in ("identity.json", "config.json"):
        (tmp_path / name).write_text("nonsense")
    shown = rows(tmp_path)
    assert shown["identity"].is_problem
    assert shown["settings"].found.startswith("cannot be used")


@pytest.mark.skipif(sys.platform != "linux", reason="names of processes are read from /proc")
def test_a_daemon_of_another_program_is_to_be_stopped(tmp_path: Path) -> None:
    program = "open('/proc/self/comm', 'w').write('pilot-daemon'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "pilot.pid").write_text(str(process.pid))
        assert rows(tmp_path)["pid file"].is_problem
        process.communicate(b"\n")


@pytest.mark.parametrize("generation", [1, 2])
def test_a_snapshot_of_either_generation_is_read(generation: int, tmp_path: Path) -> None:
    key = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="
    node: dict[str, object] = {
        "id": 1,
        "public_key": key,
        "real_addr": "127.0.0.1:4000",
        "networks": [0, 1],
        "last_seen": "2026-11-22T21:23:52Z",
    }
    lab = {"id": 1, "name": "lab", "join_rule": "open", "members": [1]}
    snapshot: dict[str, object] = {"next_node": 2, "nodes": {"1": node}, "networks": {"1": lab}}
    if generation == 2:
        node |= {"lan_addrs": ["10.0.0.1:4000"], "version": "1.18.0", "relay_only": True}
        snapshot |= {"version": 1, "checksum": "0" * 64, "total_requests": 7}
    store = tmp_path / "registry.json"
    store.write_text(json.dumps(snapshot))
    assert rows(tmp_path, store)["registry"].found == "1 nodes, 1 networks"
    (tmp_path / "registry.json.wal").write_bytes(os.urandom(9))
    assert rows(tmp_path, store)["registry journal"].is_problem
