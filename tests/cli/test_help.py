"""Help pages of every command. New ones: ``pytest tests/cli/test_help.py --inline-snapshot=fix``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from inline_snapshot import external_file

from pilotstack.cli.catalogue import walk
from pilotstack.cli.examples import EXAMPLES
from pilotstack.cli.main import COMMANDS, pilotctl
from pilotstack.cli.returns import RETURNS
from pilotstack.cli.sections import SECTIONS

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

PAGES = Path(__file__).parent / "help"
NAMES = sorted(name for commands in COMMANDS.values() for name in commands)
PATHS = [path for path, _, _ in walk(pilotctl)]


@pytest.mark.parametrize("name", ["pilotctl", *NAMES])
def test_help_pages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(variable, value)
    top = click.Context(pilotctl, info_name="pilotctl")
    pages = [("pilotctl", pilotctl, top)] if name == "pilotctl" else list(_pages(name, top))
    text = "\n".join(command.get_help(context) for _, command, context in pages)
    steady = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    assert steady == external_file(str(PAGES / f"{name}.txt"))


def _pages(name: str, top: click.Context) -> list[tuple[str, click.Command, click.Context]]:
    command = pilotctl.get_command(top, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=top)
    inner = [(name, command, context)]
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            below = command.get_command(context, sub)
            assert below is not None
            inner.append((sub, below, click.Context(below, info_name=sub, parent=context)))
    return inner


def test_no_page_is_left_of_a_command_that_has_gone() -> None:
    assert {path.stem for path in PAGES.iterdir()} == {"pilotctl", *NAMES}


def test_every_command_has_an_example_that_begins_with_it() -> None:
    missing = [path for path in PATHS if path not in EXAMPLES]
    assert not missing, "add examples in cli/examples.py"
    for path, examples in EXAMPLES.items():
        for example in examples:
            assert f"pilotctl {path}" in example


def test_every_command_has_its_section_once() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(NAMES) <= set(listed), "add it in cli/sections.py"


def test_every_flag_has_a_help_text() -> None:
    silent = [
        (path, flag.opts[0])
        for path, command, _ in walk(pilotctl)
        for flag in command.params
        if isinstance(flag, click.Option) and not flag.help
    ]
    assert not silent


#: Commands that print no envelope.
BARE = {"accept", "completion", "demo", "expose", "forward", "gateway run", "mcp", "mcp connect"}


def test_every_answer_is_described() -> None:
    assert set(PATHS) - set(RETURNS) == BARE


def test_help_is_shown_without_a_daemon(alone: Pilotctl) -> None:
    for flag in ("--help", "-h"):
        assert alone("ping", flag).startswith("\n Usage: pilotctl ping [OPTIONS] TARGET")
