"""The table of compatibility: what it names exists, and what existing programs have is in it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

import pilotstack
from pilotstack.cli.catalogue import walk
from pilotstack.cli.main import pilotctl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "compatibility.md").read_text()
VERDICTS = {"alike", "better", "differs", "not offered"}
PATHS = {path for path, _, _ in walk(pilotctl)}
RUNS = json.loads((ROOT / "tests" / "vectors" / "cli-json.json").read_text())
#: Words after ``pilotctl`` that no existing program has; the runs show that they are refused.
REFUSED = {"bogus", "name-register", "resolve", "register-name", "gateway run"}


def table(section: str) -> list[list[str]]:
    """The rows of a section without their outer bars."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


COMMANDS, CALLS, SERVICES = (table(name) for name in ("Commands", "SDK calls", "Services"))


@pytest.mark.parametrize("row", COMMANDS + CALLS, ids=lambda row: row[0])
def test_each_row_has_a_verdict_and_a_reason_where_one_is_due(row: list[str]) -> None:
    _, generation, ours, verdict, why = row
    assert generation in {"G1", "G2", "both"}
    assert verdict in VERDICTS
    assert (not ours) == (verdict == "not offered")
    assert why or verdict == "alike"


def test_each_service_has_a_verdict() -> None:
    for _, port, _, verdict, why in SERVICES:
        assert not port or port.isdecimal()
        assert verdict in VERDICTS
        assert why or verdict == "alike"


def test_every_command_of_ours_that_the_page_names_exists() -> None:
    named = re.findall(r"`pilotctl ([a-z-]+(?: [a-z-]+)?)`", PAGE)
    assert len(named) > 60
    for name in named:
        assert name in PATHS or name.split(" ")[0] in PATHS, name
    for row in COMMANDS:
        if row[2]:
            assert row[2].removeprefix("`pilotctl ").removesuffix("`") in PATHS


def test_every_call_of_ours_that_the_page_names_exists() -> None:
    for name in re.findall(r"`Driver\.(\w+)`", PAGE):
        assert hasattr(pilotstack.Driver, name), name
        assert hasattr(pilotstack.sync.Driver, name), name
    for module in re.findall(r"`(pilotstack\.services\.\w+)`", PAGE):
        importlib.import_module(module)


def test_every_command_of_existing_programs_is_in_the_table() -> None:
    listed = {name for row in COMMANDS for name in re.findall(r"`([a-z -]+)`", row[0])}
    for run in RUNS:
        words = [word for word in run["argv"][1:] if not word.startswith("-")]
        if not words or REFUSED & {words[0], " ".join(words[:2])}:
            continue
        is_known = words[0] in listed or " ".join(words[:2]) in listed
        assert is_known or any(name.split(" ")[0] == words[0] for name in listed), words
