"""Networks on loopback, for tests of agents.

:func:`network` is in this process, and there within milliseconds::

    async with network() as net, net.node("agent-a") as a, net.node("agent-b") as b:
        stream = await a.dial("agent-b:80")

:class:`Network` has a rendezvous and daemons as real processes, with state in a temporary
directory; ``pilotctl demo`` and benchmarks use it, too::

    with Network() as network:
        a, b = network.start("agent-a"), network.start("agent-b")
        async with Driver(a.socket) as driver:
            stream = await driver.dial("agent-b:80")
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotstack.errors import ConnectionFailed, TimedOut
from pilotstack.testing.local import LocalNetwork, network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["LocalNetwork", "Network", "Node", "Process", "network"]

#: Timeouts for a process to become ready, and to exit, seconds.
TIMEOUT = 30.0

_ENTRY = {
    "rendezvous": "from pilotstack.registry.main import run_rendezvous as run; run()",
    "registry": "from pilotstack.registry.main import run_registry as run; run()",
    "beacon": "from pilotstack.beacon.main import run; run()",
    "daemon": "from pilotstack.daemon.main import run; run()",
    "nameserver": "from pilotstack.services.nameserver.main import run; run()",
    "gateway": "from pilotstack.gateway.main import run; run()",
}


class Process:
    """A server process that prints a line of JSON when it is ready.

    Args:
        kind: ``rendezvous``, ``registry``, ``beacon``, ``daemon``, ``nameserver`` or ``gateway``.
        arguments: its flags.
        log: file for its stderr.
        prefix: what runs the command, such as ``ip netns exec NAME``.

    Raises:
        ConnectionFailed: it exited instead; the message is the end of its log.
        TimedOut: it did not become ready in time.
    """

    def __init__(
        self, kind: str, arguments: list[str], log: Path, *, prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-c", _ENTRY[kind], *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                # Ctrl-C must reach only the parent, which stops its processes in order.
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self.ready: dict[str, Any] = self._read_ready()
        except BaseException:
            self.kill()
            raise

    def _read_ready(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + TIMEOUT
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimedOut(f"process {self.pid} does not say that it serves")
                data = os.read(stdout.fileno(), 4096)
                if not data:
                    tail = self.log.read_text(errors="replace")[-2000:].strip()
                    raise ConnectionFailed(f"a process did not start: {tail}")
                line += data
        ready: dict[str, Any] = json.loads(line)
        return ready

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stops it gracefully, by this signal, and returns its exit code; kills it after a
        timeout."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            return self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimedOut(f"process {self.pid} did not end") from None
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def kill(self) -> None:
        """Kills it without cleanup."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass(frozen=True, slots=True)
class Node:
    """A running daemon."""

    name: str
    process: Process
    socket: Path
    node_id: int
    address: str
    #: UDP ``host:port`` announced to peers.
    endpoint: str
    #: UDP ``host:port`` that the tunnel is bound to.
    tunnel: str

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self.process.pid


class Network:
    """A rendezvous and daemons; a context manager that cleans up after itself.

    Args:
        flags: more flags of ``pilot-rendezvous``.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._process = os.getpid()
        self._directory = tempfile.TemporaryDirectory(prefix="pilot-")
        self.path = Path(self._directory.name)
        self.nodes: dict[str, Node] = {}
        self.rendezvous: Process
        self._address = ""

    def __enter__(self) -> Network:
        try:
            self.start_rendezvous()
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def start_rendezvous(self) -> None:
        """Starts the rendezvous; a second time on the same port and store."""
        listen = self._address or "127.0.0.1:0"
        arguments = ["--registry-addr", listen, "--beacon-addr", "127.0.0.1:0"]
        store = ["--store", str(self.path / "registry.json")]
        arguments += [*store, *self._flags]
        self.rendezvous = Process("rendezvous", arguments, self.path / "rendezvous.log")
        self._address = self.rendezvous.ready["registry"]

    @property
    def registry(self) -> str:
        """``host:port`` of the registry."""
        return self._address

    def start(self, name: str, *flags: str, public: bool = True) -> Node:
        """Starts a daemon with this hostname; a second time with the same identity.

        Args:
            flags: more flags of ``pilot-daemon``.
            public: reachable by everybody; otherwise only by nodes that it trusts or shares a
                network with.
        """
        socket = self.path / f"{name}.sock"
        arguments = [
            *("--registry", self._address, "--beacon", self.rendezvous.ready["beacon"]),
            *("--listen", "127.0.0.1:0", "--socket", str(socket)),
            *("--identity", str(self.path / name / "identity.json")),
            *("--hostname", name, "--public" if public else "--private", *flags),
        ]
        process = Process("daemon", arguments, self.path / f"{name}.log")
        ready = process.ready
        node = Node(
            name,
            process,
            socket,
            ready["node_id"],
            ready["address"],
            ready["endpoint"],
            ready["tunnel"],
        )
        self.nodes[name] = node
        return node

    def close(self) -> None:
        """Stops every process and removes every file. Does nothing in a forked child: they belong
        to the parent.
        """
        if self._process != os.getpid():
            return
        try:
            for node in self.nodes.values():
                if node.process.is_running:
                    node.process.stop()
            if self.rendezvous.is_running:
                self.rendezvous.stop()
        finally:
            for process in (*(node.process for node in self.nodes.values()), self.rendezvous):
                if process.is_running:
                    process.kill()
            self._directory.cleanup()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
