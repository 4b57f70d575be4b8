"""Commands that last end quietly: by Ctrl-C, and when the reader of their output has enough."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilotstack import sync

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

    from pilotstack.testing import Network

COMMAND = str(Path(sys.executable).with_name("pilotctl"))
PIPE_CLOSED = 141


def environment(agent: Pilotctl) -> dict[str, str]:
    return os.environ | agent.environment


def test_head_ends_a_list(agent_a: Pilotctl) -> None:
    # More than a pipe holds.
    script = f'{COMMAND} --no-json context | head -1; echo "${{PIPESTATUS[@]}}"'
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment(agent_a),
        timeout=50,
    )
    first, statuses = result.stdout.splitlines()
    assert first.startswith("pilotctl accept")
    assert statuses.split()[0] in {"0", str(PIPE_CLOSED)}
    assert result.stderr == ""


@pytest.mark.parametrize("form", ["--json", "--no-json"])
def test_head_ends_top(form: str, agent_a: Pilotctl) -> None:
    script = f'{COMMAND} {form} top --interval 10ms | head -1; echo "${{PIPESTATUS[0]}}"'
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment(agent_a),
        timeout=50,
    )
    assert result.stdout.splitlines()[-1] == str(PIPE_CLOSED)
    assert result.stderr == ""


def test_head_ends_a_listener(agent_a: Pilotctl, shared_network: Network) -> None:
    script = f'{COMMAND} listen 7411 | head -1; echo "${{PIPESTATUS[0]}}"'
    with subprocess.Popen(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(agent_a),
    ) as process:
        with (
            sync.Driver(shared_network.nodes["agent-b"].socket) as driver,
            driver.datagram() as datagrams,
        ):
            while process.poll() is None:
                datagrams.send_to(b"ping", "agent-a:7411")
        out, errors = process.communicate(timeout=30)
    first, status = out.splitlines()
    assert json.loads(first)["data"] == "ping"
    assert (status, errors) == (str(PIPE_CLOSED), "")


@pytest.mark.parametrize(
    "command", [["top", "--interval", "10ms"], ["subscribe", "agent-a", "*"], ["listen", "7412"]]
)
@pytest.mark.parametrize("form", ["--json", "--no-json"])
def test_ctrl_c_ends_it_without_a_word_to_people(
    form: str, command: list[str], agent_a: Pilotctl
) -> None:
    with subprocess.Popen(
        [COMMAND, form, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(agent_a) | {"TERM": "dumb"},
    ) as process:
        _until_it_works(process, command, agent_a)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    # It says when it stands, and no more.
    assert [line for line in errors.splitlines() if not line.startswith("subscribed to")] == []
    if form == "--json":
        assert json.loads(out.splitlines()[-1])["code"] == "interrupted"
    else:
        assert "interrupted" not in out


def _until_it_works(process: subprocess.Popen[str], command: list[str], agent: Pilotctl) -> None:
    """Waits for a line of its output, which it is made to print."""
    assert process.stdout is not None
    name = command[0]
    with sync.Driver(agent.environment["PILOT_SOCKET"]) as driver, driver.datagram() as datagrams:
        while not select.select([process.stdout], [], [], 0)[0]:
            assert process.poll() is None
            if name == "listen":
                datagrams.send_to(b"ping", "agent-a:7412")
            elif name == "subscribe":
                agent.run("publish", "agent-a", "topic", "--data", "x")
