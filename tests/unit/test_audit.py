"""The audit log: numbers, restarts, moved files, and a list of events that is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack import _events
from pilotstack.errors import AlreadyExists, InvalidArgument
from pilotstack.observe.audit import BURST, AuditLog
from pilotstack.registry.protocol.codec import REQUESTS
from pilotstack.registry.server.trail import AUDITED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
log = _events.get_logger(__name__)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(path: Path) -> list[int]:
    return [line["seq"] for line in lines(path)]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with AuditLog(path, "test"):
            log.security("trust.revoked", node=3, reason="operator")
        log.security("trust.revoked", node=4)
    assert path.stat().st_mode & 0o777 == 0o600
    assert numbers(path) == [1, 2, 3, 4, 5, 6]
    shown = lines(path)[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", shown.pop("time"))
    assert shown == {"seq": 2, "event": "trust.revoked", "node": 3, "reason": "operator"}


def test_a_line_that_was_cut_off_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"seq": 41, "event": "a"}\n{"seq": 42, "ev')
    with AuditLog(path, "test"):
        pass
    assert path.read_text().splitlines()[1] == '{"seq": 42, "ev'
    # The number of the torn line may have been its own or not; it is not used again if it can be
    # read, and shows as a gap or a torn line otherwise.
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()[2:]] == [42, 43]


def test_a_file_that_was_moved_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path, moved = tmp_path / "audit.jsonl", tmp_path / "audit.1"
    with AuditLog(path, "test") as audit:
        path.rename(moved)
        audit.note("one", {})
        path.unlink()
        audit.note("two", {})
    assert numbers(moved) == [1]
    assert numbers(path) == [3, 4]


def test_what_is_over_the_rate_leaves_a_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, now = tmp_path / "audit.jsonl", 1000.0
    with AuditLog(path, "test", clock=lambda: now) as audit:
        for _ in range(int(BURST) + 10):
            audit.note("flood", {})
        now += 1.0
        audit.note("after", {})
    found = numbers(path)
    assert found[: int(BURST)] == list(range(1, int(BURST) + 1))
    assert found[int(BURST)] == int(BURST) + 12
    assert sum("audit_limited" in record.getMessage() for record in caplog.records) == 1


def test_a_full_disk_leaves_a_gap_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "audit.jsonl"
    with AuditLog(path, "test") as audit:
        with monkeypatch.context() as patch:
            patch.setattr("pilotstack._files.write_all", full)
            audit.note("lost", {})
        audit.note("kept", {})
    assert numbers(path) == [1, 3, 4]


def test_text_of_others_is_one_line_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, "test") as audit:
        audit.note("event", {"text": "a\nb\x1b[31m" * 1000, "secrets": ("x",), "none": None})
    shown = lines(path)[1]
    assert len(shown["text"]) == 500
    assert (shown["secrets"], "none" in shown) == (["x"], False)
    assert "\x1b" not in path.read_text()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, "test"), pytest.raises(AlreadyExists):
        AuditLog(path, "test")
    link = tmp_path / "link"
    link.symlink_to(path)
    for wrong in (link, tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(InvalidArgument):
            AuditLog(wrong, "test")


def told_events() -> Iterator[str]:
    """Names of security events in the sources."""
    for path in (ROOT / "python" / "pilotstack").rglob("*.py"):
        yield from re.findall(r'\.security\(\s*"([\w.]+)"', path.read_text())
    trust = (ROOT / "python" / "pilotstack" / "trust" / "state.py").read_text()
    yield from re.findall(r'"((?:trust|handshake)\.\w+)"', trust)
    yield from ("node_added", "request_refused", "audit_started", "audit_ended")
    yield from AUDITED


def test_the_page_lists_every_event() -> None:
    assert set(REQUESTS) >= AUDITED
    page = (ROOT / "docs" / "reference" / "audit.md").read_text()
    tables = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([\w.]+)`", tables)) == set(told_events())
