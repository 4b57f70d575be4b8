"""Reports of a failed start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pilotstack.daemon import lifecycle

if TYPE_CHECKING:
    from pathlib import Path

REPORT = '{"status": "error", "code": "already_exists", "message": "one runs", "hint": "stop it"}'


@pytest.mark.parametrize(
    "after", ["", "[info     ] registered\n", '{"event": "registered"}\n', "[1]\n"]
)
def test_the_reason_is_the_report_whoever_logs_after_it(
    after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    lifecycle.log_file().parent.mkdir()
    lifecycle.log_file().write_text(f"[info     ] listening\n{REPORT}\n{after}")
    failure = lifecycle._explain(0)
    assert failure.code == "already_exists"
    assert failure.message == "the daemon did not start: one runs"
    assert failure.hint
    assert failure.hint.startswith("stop it (the log is in ")
