"""A rendezvous, beacons and daemons as real processes on hosts of an internet."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pilotstack.testing import Process

if TYPE_CHECKING:
    from types import TracebackType

    from pilotstack.testing.internet.hosts import Host

_REGISTRY_PORT, _BEACON_PORT = 9000, 9001


@dataclass(frozen=True, slots=True)
class Agent:
    """A daemon on a host."""

    name: str
    host: Host
    process: Process
    socket: Path
    node_id: int
    address: str


class Agents:
    """Starts processes on hosts, and stops them; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.path = Path()
        self._registry: Host
        self._beacons: list[Host] = []

    def __enter__(self) -> Self:
        directory = tempfile.TemporaryDirectory(prefix="pilot-")
        self.path = Path(self._stack.enter_context(directory))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, kind: str, name: str, host: Host, *flags: str) -> Process:
        """Starts a process; its log is ``NAME.log``."""
        log = self.path / f"{name}.log"
        process = Process(kind, list(flags), log, prefix=host.command())
        self._stack.callback(_stop, process)
        return process

    def rendezvous(self, host: Host, *flags: str) -> Process:
        """Starts registry and beacon on a public host; a second time with the same state."""
        self._add_beacon(host)
        listen = ("--beacon-addr", f"[::]:{_BEACON_PORT}")
        return self._start_registry("rendezvous", host, *listen, *flags)

    def registry(self, host: Host, *flags: str) -> Process:
        """Starts a registry on a public host; a second time with the same state."""
        return self._start_registry("registry", host, *flags)

    def beacon(self, name: str, host: Host, *flags: str) -> Process:
        """Starts a beacon on a public host."""
        self._add_beacon(host)
        return self.run("beacon", name, host, "--listen", f"[::]:{_BEACON_PORT}", *flags)

    def _start_registry(self, kind: str, host: Host, *flags: str) -> Process:
        self._registry = host
        address = ("--registry-addr", f"[::]:{_REGISTRY_PORT}")
        store = ("--store", str(self.path / "registry.json"))
        return self.run(kind, kind, host, *address, *store, "--register-rate", "0", *flags)

    def _add_beacon(self, host: Host) -> None:
        if host not in self._beacons:
            self._beacons.append(host)

    def start(self, name: str, host: Host, *flags: str, is_public: bool = True) -> Agent:
        """Starts a daemon with this hostname; a second time with the same identity.

        Args:
            flags: more flags of ``pilot-daemon``.
            is_public: reachable by everybody; otherwise only by nodes that it trusts.
        """
        has_ipv4 = bool(host.ipv4)
        beacons = ",".join(_at(beacon, _BEACON_PORT, has_ipv4) for beacon in self._beacons)
        socket = self.path / f"{name}.sock"
        process = self.run(
            *("daemon", name, host),
            *("--registry", _at(self._registry, _REGISTRY_PORT, has_ipv4), "--beacon", beacons),
            *("--socket", str(socket), "--hostname", name),
            *("--identity", str(self.path / name / "identity.json")),
            "--public" if is_public else "--private",
            *flags,
        )
        ready = process.ready
        return Agent(name, host, process, socket, ready["node_id"], ready["address"])


def _at(host: Host, port: int, has_ipv4: bool = True) -> str:
    """An endpoint of a public host, in a family that whoever asks has."""
    return f"{host.ipv4}:{port}" if has_ipv4 and host.ipv4 else f"[{host.ipv6}]:{port}"


def _stop(process: Process) -> None:
    if process.is_running:
        process.stop()
