"""What a person sees on a terminal: tables that fit a narrow one, colours that say nothing which is
not in words, and what is waited for."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilotstack.cli.output import Output
from pilotstack.cli.waiting import Waiting

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

COMMAND = str(Path(sys.executable).with_name("pilotctl"))
NARROW = 40
#: Sequences that choose a colour (ECMA-48, SGR 30 to 49 and 90 to 107).
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")
ANY = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


def on_terminal(agent: Pilotctl, *arguments: object, **variables: str) -> tuple[int, bytes]:
    """Exit status and bytes of a command whose standard streams are a terminal."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept | agent.environment | {"TERM": "xterm-256color", "COLUMNS": "100"} | variables,
            start_new_session=True,
        )
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = screen.read(65_536)
            except OSError:
                # Linux reports the end of a terminal so.
                break
            if not part:
                break
            seen += part
        return process.wait(20), seen


@pytest.mark.parametrize(
    "command",
    [
        *("info", "peers --candidates", "connections", "trust", "pending", "health", "top --once"),
        *("network list", "network members 0", "network invites", "services --all", "inbox"),
        *("traceroute agent-b", "config", "config explain", "received", "quickstart", "version"),
        *("find agent-b", "lookup 2", "ping agent-b --count 2 --interval 1ms", "bench agent-b 0.1"),
        *("daemon status", "send agent-b 7 --data hello", "handshake agent-b"),
    ],
)
def test_everything_fits_forty_columns(command: str, agent_a: Pilotctl) -> None:
    result = agent_a.with_environment(COLUMNS=str(NARROW)).run("--no-json", *command.split())
    # Why and what to do about it is for copying, and is not wrapped.
    shown = result.stdout.splitlines()
    assert shown or result.returncode
    assert [line for line in shown if len(line) > NARROW] == []


def test_colours_are_left_out_if_they_are_not_wanted_and_say_nothing_alone(
    agent_a: Pilotctl,
) -> None:
    for arguments in (("find", "nobody"), ("peers",), ("daemon", "status")):
        status, plain = on_terminal(agent_a, *arguments, NO_COLOR="1")
        again, coloured = on_terminal(agent_a, *arguments)
        assert status == again
        assert not COLOUR.search(plain)
        assert b"Traceback" not in plain
        if arguments[0] == "find":
            assert COLOUR.search(coloured)
            assert ANY.sub(b"", plain) == ANY.sub(b"", coloured)
            assert b"error: " in plain


def test_what_takes_long_says_what_is_waited_for(agent_a: Pilotctl) -> None:
    status, seen = on_terminal(agent_a, "recv", 7413, "--timeout", "3s")
    assert status == 7
    assert b"waiting for streams on port 7413" in seen
    assert b"nothing arrived in time" in seen
    # Programs are told nothing but the result.
    result = agent_a.run("recv", 7413, "--timeout", "1500ms")
    assert (result.returncode, result.stderr) == (7, "")


def test_a_context_that_ends_at_once_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = Waiting(lambda: Output(is_json=False).progress, "waiting")
    with waiting:
        pass
    # The timer came too late.
    waiting._show()
    assert capsys.readouterr() == ("", "")
    assert Output(is_json=True).waiting("waiting").__class__.__name__ == "nullcontext"
