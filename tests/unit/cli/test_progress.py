"""Progress bars."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from pilotstack.cli.output import Output
from pilotstack.cli.progress import bar

if TYPE_CHECKING:
    import pytest


def test_a_bar_shows_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, markup=False, width=100)
    monkeypatch.setattr(Output, "progress", console)
    with bar(Output(is_json=False)) as running:
        running.add_task("notes [bold].txt", total=2)
    assert "notes [bold].txt" in shown.getvalue()
    assert "[/]" not in shown.getvalue()
