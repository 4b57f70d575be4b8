"""Hosts that are network namespaces: made, configured, entered and always removed.

Knows nothing of how hosts are joined. Every name carries the process that made it, so that the
next run can remove what a killed one left behind.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pilotstack.errors import InternalError

if TYPE_CHECKING:
    from types import TracebackType

_MOUNTS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def missing_requirement(*programs: str) -> str:
    """What this machine lacks for network namespaces; empty if nothing.

    Args:
        programs: needed beside iproute2.
    """
    if os.geteuid() != 0:
        return "root"
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            return f"the program {program}"
    return ""


class Host:
    """A network namespace.

    Args:
        name: of the namespace, in ``ip netns``.
        role: what the topology calls it.
    """

    def __init__(self, name: str, role: str) -> None:
        self.name = name
        self.role = role
        #: Addresses of its uplink; empty where it has none of that family.
        self.ipv4 = ""
        self.ipv6 = ""

    def command(self, *words: str) -> list[str]:
        """What runs a command on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, stdin: str = "") -> str:
        """Runs a command on this host and returns what it printed.

        Raises:
            InternalError: it failed.
        """
        return _run(self.command(*words), stdin)

    def ip(self, *lines: str) -> None:
        """Runs ``ip`` commands on this host, in one process."""
        _run(["ip", "-n", self.name, "-batch", "-"], "".join(f"{line}\n" for line in lines))

    def nft(self, rules: str) -> None:
        """Runs an nftables script on this host."""
        self.run("nft", "-f", "-", stdin=rules)

    def set(self, **settings: int | str) -> None:
        """Writes settings of the kernel: ``net__ipv4__ip_forward=1``."""
        lines = (
            f"echo {value} > /proc/sys/{name.replace('__', '/')}"
            for name, value in settings.items()
        )
        self.run("sh", "-ec", "\n".join(lines))

    def socket(self, kind: int = socket.SOCK_DGRAM, family: int = socket.AF_INET) -> socket.socket:
        """A socket of this host, which this process may use from anywhere."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            # A thread of its own: what it enters ends with it.
            try:
                _enter(self.name)
                made.append(socket.socket(family, kind))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


class Namespaces:
    """Makes hosts and removes them; a context manager.

    Args:
        label: begins the names of the namespaces; a number at its end tells those of one process
            apart.
    """

    def __init__(self, label: str = "pilotnet") -> None:
        self._label = label
        self._stack = ExitStack()
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        _sweep(self._label)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.hosts.clear()

    def add(self, role: str) -> Host:
        """Makes a host with nothing but its loopback device."""
        host = Host(f"{self._label}-{role}-{os.getpid()}", role)
        # Before it exists, so that an interrupt in between leaves nothing.
        self._stack.callback(_remove, host.name)
        _run(["ip", "netns", "add", host.name])
        host.ip("link set lo up")
        # Addresses are unique by construction: nothing waits until a link has found that out.
        host.set(net__ipv6__conf__default__accept_dad=0)
        self.hosts[role] = host
        return host


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        # Ctrl-C must reach only the parent, which removes what it made.
        start_new_session=True,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise InternalError(f"{' '.join(command)} failed: {said}")
    return done.stdout


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with (_MOUNTS / name).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)


def _remove(name: str) -> None:
    if (_MOUNTS / name).exists():
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _sweep(label: str) -> None:
    """Removes namespaces of processes that are gone."""
    stem = re.escape(label.rstrip("0123456789"))
    with suppress(FileNotFoundError):
        for path in _MOUNTS.iterdir():
            match = re.fullmatch(rf"{stem}\d*-.+-(\d+)", path.name)
            if match and not Path(f"/proc/{match[1]}").exists():
                _remove(path.name)
