"""Flags that ``pilotctl daemon start`` passes on are the daemon's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pilotstack.cli.service import daemon as group
from pilotstack.daemon import lifecycle
from pilotstack.daemon.main import daemon

if TYPE_CHECKING:
    from pathlib import Path

    import click

#: Of ``pilot-daemon`` alone: everybody sees the flags of a process; there is one pid file; the
#: socket is a flag of every command.
OWN = {"explain_config", "admin_token", "pid_file", "socket", "version"}
#: Of ``start`` alone.
ADDED = {"foreground", "socket", "is_json"}
GIVEN = [
    *("--registry", "192.0.2.1:9000", "--registry", "192.0.2.2:9000"),
    *("--registry-tls", "--registry-trust", "system", "--registry-fingerprint", "ab"),
    *("--beacon", "", "--listen", ":4000", "--identity", "/nowhere/id.json"),
    *("--hostname", "agent-a", "--owner", "a@example.com", "--admin-token-file", "/nowhere/token"),
    *("--endpoint", "192.0.2.3:4000", "--relay-only", "--public", "--no-echo"),
    *("--congestion", "bbr", "--no-port-mapping"),
    *("--keepalive", "5", "--log-level", "debug", "--log-format", "json"),
]


def names(command: click.Command) -> set[str | None]:
    return {parameter.name for parameter in command.params}


def parsed(command: click.Command, arguments: list[str]) -> dict[str, lifecycle.Value]:
    return command.make_context("test", list(arguments), resilient_parsing=False).params


@pytest.fixture(autouse=True)
def _no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    monkeypatch.delenv("PILOT_IDENTITY", raising=False)
    monkeypatch.delenv("PILOT_CONFIG", raising=False)


def test_start_has_every_flag_of_the_daemon_but_its_own() -> None:
    assert names(daemon) - OWN == names(group.commands["start"]) - ADDED


def test_what_start_is_given_reaches_the_daemon() -> None:
    flags = lifecycle.flags_of(
        {
            name: value
            for name, value in parsed(group.commands["start"], GIVEN).items()
            if name not in ADDED
        }
    )
    assert parsed(daemon, flags) == parsed(daemon, GIVEN)


def test_what_start_is_not_given_is_left_to_the_daemon() -> None:
    given = parsed(group.commands["start"], [])
    flags = lifecycle.flags_of({n: value for n, value in given.items() if n not in ADDED})
    assert flags[0] == "--identity"
    assert len(flags) == 2


def test_a_flag_that_says_no_is_passed_on() -> None:
    flags = lifecycle.flags_of({"public": False, "registry_tls": False, "identity": "/nowhere/id"})
    assert flags == ["--private", "--no-registry-tls", "--identity", "/nowhere/id"]
