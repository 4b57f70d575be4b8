"""The examples of help pages, typed as they stand, on a network of three agents.

What waits for others for ever, needs privileges or a terminal, or starts a daemon beside those of
the test is only parsed; :data:`PARSED` lists it with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest
from tests.support.pilotctl import Pilotctl

from pilotstack.cli.examples import EXAMPLES
from pilotstack.cli.main import pilotctl
from pilotstack.cli.returns import RETURNS
from pilotstack.testing import Network, Process

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent

VECTORS = Path(__file__).parents[1] / "vectors" / "cli-json.json"

#: What is parsed, and not run, by its command; or by the line itself.
PARSED: Final = {
    "accept": "waits for a stream; tests/integration/test_cli.py",
    "recv": "waits for streams; tests/integration/test_cli.py",
    "listen": "waits for datagrams; tests/integration/test_cli.py",
    "subscribe": "waits for events; tests/cli/test_files.py",
    "gateway run": "takes addresses of this host; tests/cli/test_gateway.py",
    "gateway start": "takes addresses of this host; tests/cli/test_gateway.py",
    "gateway map": "needs a gateway; tests/cli/test_gateway.py",
    "gateway unmap": "needs a gateway; tests/cli/test_gateway.py",
    "gateway list": "needs a gateway; tests/cli/test_gateway.py",
    "gateway stop": "needs a gateway; tests/cli/test_gateway.py",
    "forward": "runs until it is stopped; tests/integration/test_cli_forward.py",
    "expose": "runs until it is stopped; tests/integration/test_cli_forward.py",
    "mcp": "speaks to a program; tests/integration",
    "mcp connect": "speaks to a program; tests/integration",
    "daemon start": "starts a daemon; tests/integration/test_daemon_life.py",
    "daemon stop": "stops one; tests/integration/test_daemon_life.py",
    "disconnect": "needs the number of a connection; tests/integration/test_cli.py",
    "verify-request": "needs a signature; tests/cli/test_envelopes.py",
    "network token": "needs a network with a token; tests/cli/test_networks.py",
    "pilotctl doctor --json | jq .data.findings": "needs jq; tests/integration/test_doctor.py",
    "pilotctl why agent-b --port 8080 --observe 5s": "needs a program at that port; "
    "tests/integration/test_why.py",
    "ban": "needs an admin token; tests/integration/test_enforcement.py",
    "unban": "needs an admin token; tests/integration/test_enforcement.py",
    "netcheck": "takes seconds; tests/integration",
    "doctor": "judges this host; tests of doctor",
    "why": "fails where a node is slow; tests/integration/test_why.py",
    "demo": "takes a minute; make demo",
    "completion": "for directories of shells; tests/cli/test_completion.py",
    "pilotctl connect agent-b:443 --secure": "needs a server; tests/integration/test_secure.py",
    "pilotctl connect agent-b": "needs somebody who accepts; tests/integration/test_cli.py",
    "pilotctl rotate-key 3 agent-c@pilot --identity new-identity.json": "needs a secret; "
    "tests/cli/test_identity.py",
    "pilotctl top": "is a screen; tests/cli/test_top.py",
    "pilotctl top --json --interval 5s | jq .data": "runs until it is stopped; tests/cli/test_top.py",
}
A, B, C = "agent-a", "agent-b", "agent-c"
#: What others type before.
BEFORE: Final = {
    "approve": ((B, "pilotctl handshake 1"),),
    "reject": ((C, "pilotctl handshake 1"),),
    "network reject": ((A, "pilotctl network invite lab agent-c"),),
    "network join": ((B, "pilotctl network create garden"),),
    "network transfer": (
        (A, "pilotctl network invite lab agent-b"),
        (B, "pilotctl network accept lab"),
    ),
    "inbox": ((B, "pilotctl send-message 1 --data hello"),),
}
#: Who types it, if not the first agent.
TYPED_BY: Final = {
    "network accept": B,
    "network invites": B,
    "network reject": C,
    "network rename": B,
    "network delete": B,
}
#: Where one builds upon another in another order than that of the help.
LATER: Final = (
    "name-unregister",
    *(
        "network accept",
        "broadcast",
        "policy get",
        "network policy",
        "member-tags set",
        "member-tags get",
    ),
    *(
        "network role",
        "network promote",
        "network demote",
        "network kick",
        "network reject",
        "network transfer",
    ),
    *("network rename", "network delete", "network leave"),
    *("handshake", "deregister", "register", "rotate-key"),
)


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pilotctl]]:
    """Three agents who trust nobody yet, files to send, and a nameserver."""
    with Network() as network:
        for name in (A, B, C):
            network.start(name)
        folder = tmp_path_factory.mktemp("examples")
        (folder / "report.pdf").write_bytes(b"%PDF")
        (folder / "data").mkdir()
        flags = ["--socket", str(network.nodes[C].socket)]
        names = Process("nameserver", flags, network.path / "names.log")
        more = {"PILOT_NAMES": str(network.nodes[C].address), "PILOT_TEST_FOLDER": str(folder)}
        try:
            yield {name: Pilotctl.of(network, name).with_environment(**more) for name in (A, B, C)}
        finally:
            names.stop()


def typed(line: str, agent: Pilotctl) -> subprocess.CompletedProcess[str]:
    """Runs a line in a shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=agent.environment["PILOT_TEST_FOLDER"],
        env=kept | agent.environment | {"PATH": f"{BIN}:{os.environ['PATH']}"},
    )


def is_run(path: str, line: str) -> bool:
    return path not in PARSED and line not in PARSED


def required_of(path: str) -> set[str]:
    """Members that the catalogue promises."""
    plain = re.sub(r"\[.*?\]", "", RETURNS[path].partition(";")[0])
    return {name.strip() for name in plain.split(",") if re.fullmatch(r"\w+", name.strip())}


@pytest.fixture(scope="module")
def answers(agents: dict[str, Pilotctl]) -> dict[str, tuple[str, dict[str, object]]]:
    """The last example of each command that answers with an envelope, and its data."""
    found = {}
    paths = [path for path in EXAMPLES if path not in LATER]
    for path in [*paths, *LATER]:
        lines = [line for line in EXAMPLES[path] if is_run(path, line)]
        for who, line in BEFORE.get(path, ()) if lines else ():
            before = typed(line, agents[who])
            assert before.returncode == 0, (line, before.stdout)
        for line in lines:
            result = typed(line, agents[TYPED_BY.get(path, A)])
            assert result.returncode == 0, (line, result.stdout, result.stderr)
            if result.stdout.startswith("{"):
                answer = json.loads(result.stdout)
                assert answer["status"] == "ok"
                # That of one command is one entry of the catalogue.
                if line != "pilotctl context ping":
                    found[path] = (line, answer["data"])
    return found


def test_examples_run_and_answer_as_described(
    answers: dict[str, tuple[str, dict[str, object]]],
) -> None:
    run = {path for path, lines in EXAMPLES.items() if any(is_run(path, line) for line in lines)}
    assert run - set(answers) == set()
    undescribed = {
        line: missing
        for path, (line, data) in answers.items()
        if (missing := required_of(path) - data.keys())
    }
    assert not undescribed


#: Members of existing programs that ours leave out, and why.
LEFT_OUT: Final = {
    # Only the receiver's answer to an older frame has it.
    "send-file": {"ack"},
    # Where a node is, the registry tells those who may know; this one has no tags.
    "lookup": {"real_addr", "tags"},
    # Texts about what ours does not have; and members of one entry.
    "context": {
        *("app_store", "extras", "note", "pilot_gateway"),
        *("args", "description", "returns"),
    },
    # Ours posts no events, and shows no messages of the day.
    "health": {"webhook_circuit_skips", "webhook_queue_dropped"},
    "info": {"webhook_circuit_skips", "webhook_queue_dropped", "motd"},
    "inbox": {"message_id"},
}


def test_answers_have_the_members_of_existing_programs(
    answers: dict[str, tuple[str, dict[str, object]]],
) -> None:
    missing: dict[str, set[str]] = {}
    for run in json.loads(VECTORS.read_text()):
        words = [word for word in run["argv"][1:] if not word.startswith("-")]
        path = " ".join(words[:2]) if " ".join(words[:2]) in answers else " ".join(words[:1])
        printed = run["stdout"]
        if run["rc"] or path not in answers or not isinstance(printed, dict):
            continue
        if "data" not in printed or run["argv"][-1] in {"--clear", "--count"}:
            continue
        line, data = answers[path]
        if set(flags_of(line)) == set(flags_of(shlex.join(run["argv"]))):
            gone = printed["data"].keys() - data.keys() - LEFT_OUT.get(path, set())
            missing.setdefault(path, set()).update(gone)
    assert {path: gone for path, gone in missing.items() if gone} == {}
    assert len(missing) > 20


def flags_of(line: str) -> list[str]:
    return [word for word in shlex.split(line) if word.startswith("--") and word != "--json"]


def command_of(line: str) -> list[str]:
    """The words after ``pilotctl`` in a line of the shell."""
    words = shlex.split(line, comments=False)
    begin = words.index("pilotctl") + 1
    ends = [words.index(mark) for mark in ("|", ">", "&&") if mark in words[begin:]]
    return words[begin : min(ends, default=len(words))]


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_are_what_the_parser_takes(path: str) -> None:
    for line in EXAMPLES[path]:
        words = command_of(line)
        context = click.Context(pilotctl, info_name="pilotctl")
        command: click.Command = pilotctl
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            found = command.get_command(context, name)
            assert found is not None, line
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context(path, words, parent=context.parent)


def test_what_is_only_parsed_exists() -> None:
    lines = {line for lines in EXAMPLES.values() for line in lines}
    assert set(PARSED) <= set(EXAMPLES) | lines
