"""The catalogue of commands says what the parser does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from pilotstack import errors
from pilotstack.cli.catalogue import ENVIRONMENT, ERROR_CODES, entries, walk
from pilotstack.cli.main import pilotctl
from pilotstack.cli.output import EXIT_STATUS

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "pilotctl.md").read_text()


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    return dict(entries(pilotctl))


def test_every_command_argument_flag_and_default_of_the_parser_is_there(
    commands: dict[str, Any],
) -> None:
    parsed = {path: command for path, command, _ in walk(pilotctl)}
    assert set(commands) == set(parsed)
    for path, command in parsed.items():
        entry = commands[path]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        flags = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert [(a.name, a.is_required, a.is_repeated) for a in entry.arguments] == [
            (a.name, a.required, a.nargs == -1) for a in arguments
        ], path
        assert [(f.names, f.negative, f.help) for f in entry.flags] == [
            (tuple(f.opts), tuple(f.secondary_opts), f.help) for f in flags
        ], path
        for shown, flag in zip(entry.flags, flags, strict=True):
            assert (shown.type == "flag") == flag.is_flag
            assert (shown.is_required, shown.is_repeated) == (flag.required, flag.multiple)
            if isinstance(flag.default, bool | int | float | str):
                assert shown.default == flag.default, (path, flag.name)
            if isinstance(flag.type, click.Choice):
                assert list(shown.choices) == list(flag.type.choices)


def test_a_flag_of_the_catalogue_is_one_that_the_parser_takes(commands: dict[str, Any]) -> None:
    for path, command, context in walk(pilotctl):
        parser = command.make_parser(context)
        for flag in commands[path].flags:
            for name in (*flag.names, *flag.negative):
                assert name in parser._long_opt or name in parser._short_opt
                if name.startswith("--"):
                    # As existing programs have them.
                    assert parser._long_opt[name[1:]] is parser._long_opt[name]


def test_a_value_that_looks_like_a_flag_is_left_as_it_is(alone: Pilotctl) -> None:
    context = pilotctl.make_context("pilotctl", ["-json", "version"])
    assert context.obj.is_json is True
    send = pilotctl.get_command(context, "send")
    assert send is not None
    parsed = send.make_context("send", ["agent-b", "7", "-data", "-hello"], parent=context)
    assert parsed.params["data"] == "-hello"
    assert json.loads(alone("version", "-json"))["status"] == "ok"


def test_codes_and_statuses_are_those_of_the_errors_and_of_the_page() -> None:
    kinds = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PilotError)
    }
    for path in (ROOT / "python" / "pilotstack" / "cli").glob("*.py"):
        kinds |= set(re.findall(r'code="(\w+)"', path.read_text()))
    assert kinds <= set(ERROR_CODES), "add it in cli/catalogue.py"
    assert set(EXIT_STATUS) <= set(ERROR_CODES)
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", PAGE, re.MULTILINE)
    documented = {
        code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)
    }
    assert documented == {**EXIT_STATUS, "internal": 1}
    assert all(f"`{code}`" in PAGE for code in ERROR_CODES)


def test_programs_get_it_as_json_and_people_as_text(alone: Pilotctl) -> None:
    told = json.loads(alone.run("context").stdout)["data"]
    assert told.keys() >= {"version", "commands", "global_flags", "error_codes", "environment"}
    assert {"args", "description", "returns"} <= told["commands"]["ping"].keys()
    assert told["environment"] == ENVIRONMENT
    assert json.loads(alone.run("context", "ping").stdout)["data"] == told["commands"]["ping"]
    below = json.loads(alone.run("context", "network").stdout)["data"]["commands"]
    assert "network list" in below
    assert alone.table("context", "find") == (
        "pilotctl find <hostname> [--socket <path>] [--json] [--config <path>]\n"
        "    Find the address behind a hostname.\n"
    )
    assert alone.run("context", "pign").returncode == 3
