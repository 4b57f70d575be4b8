"""What commands, the package and the daemon import: each module costs every start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

_PILOTCTL = "from pilotstack._entry import pilotctl; pilotctl()"
#: What no question to the daemon needs.
_HEAVY = {
    *("asyncio", "ssl", "click", "rich", "rich_click", "cryptography", "logging", "hashlib"),
    *("pilotstack._core", "pilotstack.client", "pilotstack.sync"),
    *("pilotstack.registry", "pilotstack.daemon", "pilotstack.trust"),
}


def imported(code: str, *arguments: str, **environment: str) -> set[str]:
    """Modules that a process imports, as the interpreter reports them."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    others = [line for line in result.stderr.splitlines() if line not in lines]
    assert not others, "\n".join(others)
    return {line.rpartition("|")[2].strip() for line in lines}


def among(modules: set[str], unwanted: set[str]) -> set[str]:
    """Those that are unwanted, or part of what is."""
    return {name for name in modules if any(f"{name}.".startswith(f"{u}.") for u in unwanted)}


@pytest.mark.parametrize("command", ["info", "peers", "connections"])
def test_a_question_for_json_needs_no_parser_no_event_loop_and_no_sdk(
    agent_a: Pilotctl, command: str
) -> None:
    modules = imported(_PILOTCTL, command, **agent_a.environment)
    assert "pilotstack.cli.session" in modules
    assert not among(modules, _HEAVY)


def test_commands_with_arguments_need_no_event_loop_either(agent_a: Pilotctl) -> None:
    modules = imported(_PILOTCTL, "find", "agent-b", **agent_a.environment)
    assert {"click", "pilotstack.cli.session"} <= modules
    assert not among(modules, _HEAVY - {"click"})


def test_the_version_needs_next_to_nothing() -> None:
    modules = imported(_PILOTCTL, "--version")
    ours = {name for name in modules if name.startswith("pilotstack")}
    names = {"_entry", "_interrupts", "wellknown"}
    assert ours == {"pilotstack", *(f"pilotstack.{name}" for name in names)}
    assert not among(modules, _HEAVY | {"msgspec", "anyio", "socket", "pathlib"})


def test_the_package_imports_what_is_used_of_it() -> None:
    modules = imported("import pilotstack")
    assert {name for name in modules if name.startswith("pilotstack")} == {"pilotstack"}
    assert not among(modules, _HEAVY | {"msgspec", "anyio", "socket", "pathlib"})


def test_a_daemon_has_no_renderer_no_second_cryptography_and_no_registry_server() -> None:
    modules = imported("import pilotstack.daemon.main, pilotstack.daemon.supervisor")
    assert "pilotstack._core" in modules
    unwanted = {"rich", "rich_click", "pygments", "cryptography", "prometheus_client", "h11"}
    wings = {"server", "storage", "rules", "replication", "model"}
    assert not among(modules, unwanted | {f"pilotstack.registry.{wing}" for wing in wings})


def test_quick_commands_and_parsed_ones_answer_alike(agent_a: Pilotctl) -> None:
    parsed = "from pilotstack.cli.main import run; run()"
    environment = os.environ | agent_a.environment
    for arguments in (
        ["peers"],
        ["--json", "connections"],
        ["connections", "--json"],
        ["--socket", "/nowhere/pilot.sock", "info"],
        ["info", "--socket=/nowhere/pilot.sock"],
        ["-socket", "/nowhere/pilot.sock", "info"],
        ["info", "peers"],
        ["info", "--socket"],
        ["info", "--help"],
    ):
        results = [
            subprocess.run(
                [sys.executable, "-c", code, *arguments],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            for code in (_PILOTCTL, parsed)
        ]
        # Figures of a path change all the time.
        outcomes = [
            (
                result.returncode,
                re.sub(r'"(path_age|rtt_ms|loss)": [\d.e-]+', "", result.stdout),
                result.stderr,
            )
            for result in results
        ]
        assert outcomes[0] == outcomes[1], arguments
