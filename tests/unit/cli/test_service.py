"""``pilotctl daemon``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

from click.testing import CliRunner

from pilotstack.cli.main import pilotctl
from pilotstack.daemon import lifecycle
from pilotstack.errors import PermissionDenied

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_status_reports_a_home_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(socket: Path) -> NoReturn:
        raise PermissionDenied("not a directory of this user")

    monkeypatch.setattr(lifecycle, "running_pid", refuse)
    arguments = ["--json", "--socket", str(tmp_path / "none"), "daemon", "status"]
    result = CliRunner().invoke(pilotctl, arguments)
    assert json.loads(result.output)["code"] == "permission_denied"
    assert result.exit_code == 5
    assert CliRunner().invoke(pilotctl, [*arguments, "--check"]).exit_code == 1
