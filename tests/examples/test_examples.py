"""The examples do what they say, as processes on a network of real daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.pilotctl import Pilotctl

from pilotstack import sync

if TYPE_CHECKING:
    from types import TracebackType

    from pilotstack.testing import Network

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.timeout(60)


class Program:
    """A running example; leaving the context ends it."""

    def __init__(self, network: Network, agent: str, name: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / f"{name}.py", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PILOT_SOCKET": str(network.nodes[agent].socket)},
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it prints; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        """Types a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """What else it prints until it ends by itself, successfully."""
        shown, _ = self.process.communicate()
        assert self.process.returncode == 0
        return shown


def run(network: Network, agent: str, name: str, *arguments: str) -> str:
    with Program(network, agent, name, *arguments) as program:
        return program.finish()


@pytest.fixture(scope="module")
def agents(shared_network: Network) -> Network:
    return shared_network


def test_echo(agents: Network) -> None:
    with Program(agents, "agent-b", "echo", "serve", "0") as server:
        port = server.line().rpartition(" ")[2]
        for text in ("hello", "a" * 100_000):
            assert run(agents, "agent-a", "echo", "dial", f"agent-b:{port}", text) == f"{text}\n"


def test_secure_echo(agents: Network) -> None:
    with Program(agents, "agent-b", "secure_echo", "0") as server:
        port = server.line().rpartition(" ")[2]
        pilotctl = Pilotctl.of(agents, "agent-a")
        sent = ("connect", "--secure", "agent-b", port, "--message", "hello encrypted world")
        assert json.loads(pilotctl(*sent))["data"]["response"] == "hello encrypted world"


def test_chat(agents: Network) -> None:
    with (
        Program(agents, "agent-a", "chat", "agent-b") as a,
        Program(agents, "agent-b", "chat", "agent-a") as b,
    ):
        address = {program: program.line().removeprefix("this is ") for program in (a, b)}
        a.say("anybody there?")
        assert b.line() == f"{address[a]}: anybody there?"
        b.say("yes \x1b[31mhere")
        assert a.line() == f"{address[b]}: yes [31mhere"
        assert [a.finish(), b.finish()] == ["", ""]


def test_web(agents: Network) -> None:
    with Program(agents, "agent-b", "web", "serve", "0") as server:
        port = server.line().rpartition(" ")[2]
        address = agents.nodes["agent-a"].address
        shown = run(agents, "agent-a", "web", "get", f"agent-b:{port}", "/some/path")
        assert shown == f"200 hello {address}, this is /some/path\n"


def test_site(agents: Network) -> None:
    with Program(agents, "agent-b", "site", "0") as server:
        port = server.line().rpartition(" ")[2]
        shown = run(agents, "agent-a", "web", "get", f"agent-b:{port}", "/status")
        assert shown == f'200 {{"status":"ok","protocol":"pilot","port":{port}}}'


def test_trust(network: Network) -> None:
    network.start("agent-a", public=False)
    network.start("agent-b", public=False)
    with Program(network, "agent-b", "trust", "answer", "agent-a") as b:
        assert b.line() == "ready"
        with Program(network, "agent-a", "trust", "ask", "agent-b", "a report") as a:
            assert a.finish() == "asked agent-b\ntrusted: hello\n"
        assert b.finish() == "approved agent-a\n"


def test_measure(agents: Network) -> None:
    lines = run(agents, "agent-a", "measure", "agent-b", "nobody", "agent-a").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["agent-b", "nobody", "agent-a"]
    assert [" ms (" in line for line in lines] == [True, False, True]


def test_files(agents: Network, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(3 << 20))
    small.write_bytes(b"")
    with Program(agents, "agent-b", "files", "receive", str(there), "0") as receiver:
        target = f"agent-b:{receiver.line().rpartition(' ')[2]}"
        shown = run(agents, "agent-a", "files", "send", target, str(large), str(small))
        assert shown == "large: stored\nsmall: stored\n"
        assert (there / "large").read_bytes() == large.read_bytes()
        assert run(agents, "agent-a", "files", "send", target, str(small)) == (
            "small: there is a 'small' already\n"
        )
        # A sender that ends too early, and one that names another place.
        with sync.Driver(agents.nodes["agent-a"].socket) as driver:
            for name, sent in (("cut", b"x"), ("../../escaped", b"xx")):
                header = f'{{"name": "{name}", "size": 2, "sha256": "0"}}\n'
                with driver.dial(target) as stream:
                    stream.sendall(header.encode() + sent)
                    stream.shutdown(1)
                    with pytest.raises(ConnectionResetError):
                        stream.recv(100)
    assert sorted(path.name for path in there.iterdir()) == ["large", "small"]
    assert not list(tmp_path.parent.glob("**/escaped"))
