"""Starting, finding and stopping a daemon that runs in the background."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotstack import wellknown
from pilotstack.errors import AlreadyExists, ConnectionFailed, NotRunning

_ENTRY = "from pilotstack.daemon.main import run; run()"
#: Seconds for an orderly end, before the daemon is killed.
_PATIENCE = 10.0
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that serves."""

    pid: int
    log_file: Path
    ready: dict[str, Any]


def pid_file() -> Path:
    """Where the number of the background daemon stands."""
    return wellknown.home() / "pilot.pid"


def log_file() -> Path:
    """Where the background daemon logs."""
    return wellknown.home() / "pilot.log"


def running_pid() -> int | None:
    """The background daemon's process, if it lives and is one."""
    try:
        pid = int(pid_file().read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if b"pilotstack.daemon" not in command or state == "Z":
            return None
    return pid


def start(flags: list[str]) -> Started:
    """Starts a daemon in the background and waits until it serves.

    Raises:
        AlreadyExists: one runs.
        ConnectionFailed: it ended instead; the message says why.
    """
    if (pid := running_pid()) is not None:
        raise AlreadyExists(
            f"the daemon runs already, as process {pid}", hint="stop it with: pilotctl daemon stop"
        )
    home = wellknown.home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_fd = os.open(log_file(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(log_fd, "ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    if not line:
        process.wait()
        raise _explain(begin)
    pid_file().write_text(str(process.pid))
    pid_file().chmod(0o600)
    return Started(process.pid, log_file(), json.loads(line))


def _explain(begin: int) -> ConnectionFailed:
    with log_file().open("rb") as log:
        log.seek(begin)
        lines = log.read().decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    code = None
    with suppress(ValueError, KeyError, TypeError):
        report = json.loads(last)
        code, last = report["code"], report["message"]
    return ConnectionFailed(
        f"the daemon did not start: {last}", code=code, hint=f"the log is in {log_file()}"
    )


def stop() -> tuple[int, bool]:
    """Stops the background daemon.

    Returns:
        Its process, and whether it had to be killed.

    Raises:
        NotRunning: there is none.
    """
    pid = running_pid()
    if pid is None:
        pid_file().unlink(missing_ok=True)
        raise NotRunning("the daemon is not running", hint="start it with: pilotctl daemon start")
    is_forced = False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while running_pid() == pid:
            if not is_forced and time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                is_forced = True
            time.sleep(_POLL)
    pid_file().unlink(missing_ok=True)
    return pid, is_forced


def execute(flags: list[str]) -> None:
    """Becomes a daemon: never returns."""
    os.execv(sys.executable, [sys.executable, "-c", _ENTRY, *flags])
