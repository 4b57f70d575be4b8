"""A gateway as a process, in a network namespace if it needs one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from pilotstack.testing import Process
from tests.support.descriptors import descriptors, wait_for_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pilotstack.testing import Network, Node
    from pilotstack.testing.internet import Host

_CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]


class Gateway:
    """A gateway of one agent.

    Args:
        network: whose directory has its files.
        node: whose daemon it uses.
        agents: that it maps at its start.
        flags: more flags.
        host: where it runs; on this host unless given.
        prefix: what runs it there.
    """

    def __init__(
        self,
        network: Network,
        node: Node,
        *agents: str,
        flags: tuple[str, ...] = (),
        host: Host | None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.home = network.path / "gateway"
        self.home.mkdir(exist_ok=True)
        self._host = host
        self.socket = node.socket
        self.control = self.home / "gateway.sock"
        self.log = network.path / "gateway.log"
        arguments = ["run", "--socket", str(node.socket), "--control", str(self.control)]
        arguments += ["--state", str(self.home / "gateway.json"), "--log-level", "debug"]
        if "--unprivileged" in flags and "--subnet" not in flags:
            flags = (*flags, "--subnet", own_subnet())
        command = [*(host.command() if host is not None else []), *prefix]
        self.process = Process(
            "gateway", [*arguments, *flags, "--", *agents], self.log, prefix=command
        )
        self.ready = self.process.ready

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Mappings at the start."""
        found: list[dict[str, Any]] = self.ready["mappings"]
        return found

    @property
    def proxy(self) -> str:
        """The proxy's address."""
        found: str = self.ready["proxy"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also when it has ended: its output is closed then.
        self.process.stop()

    def command(self, *words: str) -> list[str]:
        """What runs a command where the gateway is."""
        return self._host.command(*words) if self._host is not None else list(words)

    def run(self, *words: str, stdin: bytes = b"") -> bytes:
        """Runs a command there, and returns its output."""
        result = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, check=False, timeout=60
        )
        assert result.returncode == 0, (words, result.stderr)
        return result.stdout

    def curl(self, *arguments: str) -> str:
        """What curl shows."""
        return self.run("curl", "-sS", "--max-time", "30", *arguments).decode()

    def ctl(self, *arguments: str) -> dict[str, Any]:
        """The answer to a command of ``pilotctl gateway``."""
        command = [*_CTL, "--json", "gateway", *arguments, "--control", str(self.control)]
        result = subprocess.run(command, capture_output=True, check=False, timeout=60)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def descriptors(self) -> int:
        """Open descriptors of the process once it has no connection."""
        self.wait_until_idle()
        return descriptors(self.pid)

    def settle(self, at_most: int) -> None:
        """Returns once it has no connection and no more open than ``at_most``."""
        self.wait_until_idle()
        wait_for_descriptors(at_most, self.pid)

    def wait_until_idle(self) -> None:
        """Returns once no connection goes through it."""
        while self.ctl("list")["data"]["connections"]:
            pass

    @property
    def pid(self) -> int:
        """The gateway itself, not what runs it."""
        found: int = self.ready["pid"]
        return found

    def aliases(self) -> list[str]:
        """Addresses of the loopback interface, without its own."""
        shown = json.loads(self.run("ip", "-json", "address", "show", "lo"))
        found = [row["local"] for row in shown[0]["addr_info"]]
        return [ip for ip in found if ip not in {"127.0.0.1", "::1"}]


def own_subnet() -> str:
    """One that other test processes do not use."""
    number = os.getpid()
    return f"127.{100 + number % 100}.{100 + number // 100 % 100}.0/24"


@contextmanager
def running(
    network: Network,
    node: str,
    *agents: str,
    flags: tuple[str, ...] = (),
    host: Host | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Gateway]:
    """A gateway, which is stopped at the end."""
    with ExitStack() as stack:
        gateway = Gateway(
            network, network.nodes[node], *agents, flags=flags, host=host, prefix=prefix
        )
        yield stack.enter_context(gateway)
