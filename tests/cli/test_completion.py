"""Completion in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilotstack.cli.main import COMMANDS

BIN = Path(sys.executable).parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")} | {
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "NO_COLOR": "1",
}
#: Fills in what the shell would for a line, and prints what it would offer.
BASH = """
source <(pilotctl completion bash)
COMP_WORDS=({words}); COMP_CWORD={index}
_pilotctl_completion pilotctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
#: In a terminal of zsh's own, because completion works at a prompt only.
ZSH = """
zmodload zsh/zpty
zpty -b shell zsh -f
say() { zpty -w shell "$1" }
say 'PS1=""; autoload -U compinit; compinit -u -D'
say 'source <(pilotctl completion zsh)'
say 'print READY''MARK'
zpty -r -m shell seen '*READYMARK*'
zpty -w -n shell $'LINE\\t\\t'
zpty -r -m shell seen '*WANTED*'
print -r -- "$seen"
zpty -d shell
"""
ALL = {name for commands in COMMANDS.values() for name in commands}


def run(shell: str, script: str, tmp_path: Path) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    result = subprocess.run(
        [shell, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=ENVIRONMENT | {"HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def bash(line: str, tmp_path: Path) -> set[str]:
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    return set(run("bash", BASH.format(words=quoted, index=len(words) - 1), tmp_path).split())


def test_bash_completes_commands_their_commands_flags_and_choices(tmp_path: Path) -> None:
    assert bash("pilotctl ", tmp_path) == ALL
    assert bash("pilotctl set-h", tmp_path) == {"set-hostname"}
    assert bash("pilotctl network in", tmp_path) == {"invite", "invites"}
    assert bash("pilotctl ping --i", tmp_path) == {"--interval"}
    assert bash("pilotctl daemon start --log-level w", tmp_path) == {"warn"}


def fish(line: str, tmp_path: Path) -> dict[str, str]:
    script = f"pilotctl completion fish | source; complete -C '{line}'"
    rows = (row.partition("\t") for row in run("fish", script, tmp_path).splitlines())
    return {word: text for word, _, text in rows}


def test_fish_completes_them_with_what_they_are_for(tmp_path: Path) -> None:
    commands = fish("pilotctl ", tmp_path)
    assert set(commands) == ALL
    assert commands["find"] == "Find the address behind a hostname."
    assert set(fish("pilotctl network in", tmp_path)) == {"invite", "invites"}
    assert set(fish("pilotctl ping --i", tmp_path)) == {"--interval"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("pilotctl set-hos", "set-hostname"),
        ("pilotctl network invi", "invites"),
        ("pilotctl ping --int", "--interval"),
    ],
)
def test_zsh_completes_them_too(line: str, wanted: str, tmp_path: Path) -> None:
    script = ZSH.replace("LINE", line).replace("WANTED", wanted)
    assert wanted in run("zsh", script, tmp_path)


def test_completion_imports_no_command_that_is_not_asked_for(tmp_path: Path) -> None:
    asked = ENVIRONMENT | {
        "_PILOTCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "pilotctl ",
        "COMP_CWORD": "1",
    }
    result = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            "from pilotstack._entry import pilotctl; pilotctl()",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=asked | {"HOME": str(tmp_path)},
    )
    assert "plain,ping" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"asyncio", "rich", "pilotstack.cli.traffic", "pilotstack.client"}
