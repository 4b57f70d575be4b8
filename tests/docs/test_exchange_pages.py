"""What the documents say of messages, files and events works as it is typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.pilotctl import Pilotctl

from pilotstack import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network, Node

ROOT = Path(__file__).parents[2]


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


@contextmanager
def running(node: Node, code: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PILOT_SOCKET": str(node.socket)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def listening(node: Node, port: int) -> None:
    """Returns when a program listens there."""
    with sync.Driver(node.socket) as driver:
        while True:
            try:
                driver.dial((node.address, port)).close()
            except ConnectionRefusedError:
                continue
            return


def subscribed(node: Node) -> None:
    """Returns when somebody subscribes to the node's broker."""
    with sync.Driver(node.socket) as driver:
        while not any(
            row.local_port == 1002 and row.state == "ESTABLISHED" for row in driver.connections()
        ):
            pass


def ask(ctl: Pilotctl, *arguments: str) -> Any:
    result = ctl.run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)["data"]


def test_the_commands_of_the_readme(network: Network) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [text for text in blocks if "send-message" in text]
    nodes = {"/tmp/a.sock": network.start("agent-a"), "/tmp/b.sock": network.start("agent-b")}
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    steps = [(Pilotctl.of(network, nodes[line[2]].name), line[3:]) for line in lines]
    text, as_json, file, inbox, received, subscribe, publish = steps
    assert ask(text[0], *text[1])["ack"] == "ACK TEXT 24 bytes"
    assert ask(as_json[0], *as_json[1])["ack"] == "ACK JSON 26 bytes"
    file[1][-1] = str(ROOT / file[1][-1])
    assert ask(file[0], *file[1])["verified"]
    messages = ask(inbox[0], *inbox[1])["messages"]
    assert [row["data"] for row in messages] == [
        *('{"key":"value","count":42}', "hello from data exchange")
    ]
    (stored,) = ask(received[0], *received[1])["files"]
    assert Path(stored["path"]).read_bytes() == (ROOT / "README.md").read_bytes()
    command = [str(Path(sys.executable).with_name("pilotctl")), *subscribe[1]]
    environment = os.environ | subscribe[0].environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as subscriber:
        subscribed(nodes["/tmp/b.sock"])
        assert ask(publish[0], *publish[1])["confirmed"]
        out, _ = subscriber.communicate(timeout=50)
    (event,) = json.loads(out)["data"]["events"]
    assert (event["topic"], event["data"]) == ("research.updates", "new paper available")


def test_the_programs_of_the_page_on_messages_and_files(network: Network, tmp_path: Path) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    report, echo = programs("how-to/messages-and-files.md")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    with running(a, f"{report}\nimport anyio\nanyio.run(report)", tmp_path) as process:
        out, _ = process.communicate(timeout=50)
    assert out.splitlines()[-1].endswith(" True")
    ctl = Pilotctl.of(network, "agent-a")
    with running(b, echo, tmp_path):
        listening(b, 2001)
        sent = ask(ctl, "send-message", "agent-b:2001", "--data", "hello from data exchange")
        assert sent["reply"] == "hello from data exchange"
        content = '{"key":"value","count":42}'
        sent = ask(ctl, "send-message", "agent-b:2001", "--type", "json", "--data", content)
        assert sent["reply"] == content


def test_the_programs_of_the_page_on_events(network: Network, tmp_path: Path) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    both, broker = programs("how-to/events.md")
    with running(a, f"{both}\nimport anyio\nanyio.run(watch)", tmp_path) as watching:
        subscribed(b)
        with running(b, f"{both}\nimport anyio\nanyio.run(tell)", tmp_path) as telling:
            telling.communicate(timeout=50)
        assert telling.returncode == 0
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(1000)]
    assert lines[-1] == "progress 999 0\n"
    ctl = Pilotctl.of(network, "agent-a")
    with running(b, broker, tmp_path):
        listening(b, 2002)
        ask(ctl, "publish", "agent-b:2002", "public.news", "--data", "x")
        refused = ctl.run("publish", "agent-b:2002", "private", "--data", "x")
        assert json.loads(refused.stdout)["code"] == "permission_denied"
