"""Output: untrusted text is sanitized, and tables fit the terminal."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.cli.output import Output, exit_status
from pilotstack.cli.screen import Screen
from pilotstack.cli.text import visible
from pilotstack.errors import NotFound, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable

EVIL = "\x1b]0;PWNED\x07\x1b[2J[bold]x[/bold]\u202e\x9b[/x]"
COLUMNS = {"node": "node", "name": "name", "endpoint": "endpoint"}
DATA = [
    {"node": 1, "name": "agent-a", "endpoint": "127.0.0.1:40000"},
    {"node": 2, "name": "agent-b", "endpoint": "127.0.0.1:50000"},
]


def printed(monkeypatch: pytest.MonkeyPatch, show: Callable[[Screen], object], columns: int) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", str(columns))
    show(Screen())
    return out.getvalue()


@given(st.text())
def test_visible_text_is_printable_and_short_of_controls(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text) == text or not text.isprintable()
    assert visible(visible(text)) == visible(text)


def test_lines_and_tabs_may_stay() -> None:
    assert visible("a\n\tb\r", keeps_lines=True) == "a\n\tb\\r"
    assert visible("a\n\tb") == "a\\n\\tb"
    assert visible("\udcff") == "\\udcff"


@pytest.mark.parametrize("columns", [40, 100])
def test_untrusted_text_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    row = {"node": 1, "name": EVIL, "endpoint": "[/]"}
    for show in (
        lambda screen: screen.print(EVIL),
        lambda screen: screen.fields(row),
        lambda screen: screen.rows(EVIL, COLUMNS, [row]),
    ):
        shown = printed(monkeypatch, show, columns)
        assert "".join(shown.split("\n")).isprintable()
        assert "[bold]" in shown.replace("\n", "")


def show_peers(screen: Screen) -> None:
    screen.rows("peers", COLUMNS, DATA)


def test_a_table_becomes_blocks_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = printed(monkeypatch, show_peers, 100)
    assert any("agent-a" in line and "127.0.0.1:40000" in line for line in wide.splitlines())
    narrow = printed(monkeypatch, show_peers, 30)
    assert [line.split() for line in narrow.splitlines() if line.strip()] == [
        ["peers"],
        ["node", "1"],
        ["name", "agent-a"],
        ["endpoint", "127.0.0.1:40000"],
        ["node", "2"],
        ["name", "agent-b"],
        ["endpoint", "127.0.0.1:50000"],
    ]


def test_a_failure_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    Output(is_json=True).failure(NotFound("no [/x]", hint="look"), {"found": 0})
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "code": "not_found",
        "message": "no [/x]",
        "hint": "look",
        "status": "error",
        "data": {"found": 0},
    }
    assert err == ""
    Output(is_json=False).failure(NotFound("no [/x]", hint="\x1b[2J"))
    assert capsys.readouterr() == ("", "error: no [/x]\nhint:  \\x1b[2J\n")


def test_failures_of_different_kinds_exit_with_different_statuses() -> None:
    assert exit_status(NotFound.code) != exit_status(PermissionDenied.code)
    assert exit_status("a code of the future") == 1
