"""Starts, finds and stops the daemon in the background."""

from __future__ import annotations

import json
import os
import select
import signal
import socket as sockets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

from pilotstack import _config, _paths, wellknown
from pilotstack.daemon import pid_file as pid_files
from pilotstack.daemon.config import default_identity
from pilotstack.daemon.ready import Ready
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotRunning,
    PermissionDenied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

#: What a flag of ``pilotctl daemon start`` may be; ``None`` and ``()`` if it was not given.
Value = str | bool | float | Path | tuple[str, ...] | None

_ENTRY = "from pilotstack._entry import pilot_daemon; pilot_daemon()"
#: Seconds for an orderly shutdown before the daemon is killed.
_PATIENCE = 10.0
_POLL = 0.05
#: The same for a daemon whose start was interrupted.
_SHORT_PATIENCE = 5.0
#: Bytes at the end of the log that are searched for the reason of a failed start.
_MAX_LOG = 1 << 16


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that was started and serves."""

    pid: int
    log_file: Path
    ready: Ready


def pid_file() -> Path:
    """The pid file of the daemon in the background."""
    return wellknown.home() / "pilot.pid"


def log_file() -> Path:
    """The log of the daemon in the background."""
    return wellknown.home() / "pilot.log"


def identity_file() -> Path:
    """The identity of the daemon in the background, unless another one is named."""
    return default_identity()


def flags_of(options: Mapping[str, Value]) -> list[str]:
    """The daemon's arguments for the options of ``pilotctl daemon start``. The identity is in the
    home directory unless options, environment or settings file name one, or it is ephemeral.

    Raises:
        InvalidArgument: the settings file is malformed.
    """
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        match value:
            case None | ():
                pass
            case True:
                flags.append(f"--{flag}")
            case False:
                flags.append("--private" if flag == "public" else f"--no-{flag}")
            case tuple():
                flags += [part for each in value for part in (f"--{flag}", each)]
            case _:
                flags += [f"--{flag}", str(value)]
    # An ephemeral node needs a new key each time.
    is_named = (
        options.get("identity") or options.get("ephemeral") or os.environ.get("PILOT_IDENTITY")
    )
    config = options.get("config") or os.environ.get("PILOT_CONFIG")
    path = Path(config) if isinstance(config, str | Path) else None
    if not is_named and not _config.is_named("identity", path):
        flags += ["--identity", str(default_identity())]
    return flags


def warnings_of(ready: Ready) -> list[str]:
    """Problems of a daemon that serves all the same."""
    warnings = []
    if ready.hostname_error:
        warnings.append(f"the node has no hostname: {ready.hostname_error}")
    home = wellknown.home()
    if not _paths.is_lasting(home):
        warnings.append(
            f"no home directory can be written: the identity is in {home}, which a restart of the "
            "host may empty; set PILOT_HOME"
        )
    return warnings


def running_pid(socket: Path | None = None) -> int | None:
    """The daemon's process: the one that locks the pid file, else the process of this user that
    serves ``socket``, however it was started."""
    found = pid_files.owner(pid_file())
    return found if found is not None or socket is None else _server(socket)


def _server(path: Path) -> int | None:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            _paths.connect(probe, path)
            pid, uid = _paths.peer(probe)
        except (OSError, InvalidArgument):
            return None
    if pid is None or uid != os.geteuid():
        return None
    # The system names the process that called listen(); a child may have inherited the socket.
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"pilotstack" in command or b"pilot-daemon" in command:
            return pid
    return None


def start(flags: list[str]) -> Started:
    """Starts a daemon in the background and waits until it serves.

    Raises:
        AlreadyExists: a daemon runs already.
        ConnectionFailed: the daemon ended instead; the message says why.
        InvalidArgument: the log cannot be written.
    """
    if (pid := running_pid()) is not None:
        raise AlreadyExists(
            f"the daemon runs already, as process {pid}", hint="stop it with: pilotctl daemon stop"
        )
    with _open_log() as log:
        begin = os.fstat(log.fileno()).st_size
        process = subprocess.Popen(
            [*_command(), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        with process.stdout:
            line = process.stdout.readline()
    except BaseException:
        # An interrupted start leaves no daemon behind.
        _end(process)
        raise
    if not line:
        process.wait()
        raise _explain(begin)
    return Started(process.pid, log_file(), msgspec.json.decode(line, type=Ready))


def _open_log() -> BinaryIO:
    try:
        _paths.make_home()
        # O_NONBLOCK: opening a pipe without a reader must not block.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        return open(os.open(log_file(), flags, 0o600), "ab")
    except PermissionDenied:
        raise
    except OSError as error:
        raise InvalidArgument(
            f"cannot write {log_file()}: {error.strerror}",
            hint="name another directory with PILOT_HOME",
        ) from error


def _command() -> list[str]:
    return [sys.executable, "-c", _ENTRY, "--pid-file", str(pid_file())]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_SHORT_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _report_of(line: str) -> tuple[str, str, str | None] | None:
    """Code, message and hint, if a line of the log is an error report."""
    with suppress(ValueError, KeyError, TypeError):
        report = json.loads(line)
        if report["status"] == "error":
            return report["code"], report["message"], report.get("hint")
    return None


def _explain(begin: int) -> ConnectionFailed:
    with log_file().open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(begin, end - _MAX_LOG))
        lines = log.read().decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "its log is empty"
    code = hint = None
    # A daemon that started at the same time may have logged after ours.
    if reports := list(filter(None, map(_report_of, lines))):
        code, last, hint = reports[-1]
    where = f"the log is in {log_file()}"
    return ConnectionFailed(
        f"the daemon did not start: {last}", code=code, hint=f"{hint} ({where})" if hint else where
    )


def stop(socket: Path | None = None) -> tuple[int, bool]:
    """Stops the daemon of the pid file, else the one that serves ``socket``.

    Returns:
        Its process id, and whether it had to be killed.

    Raises:
        NotRunning: no daemon runs.
    """
    pid = running_pid(socket)
    if pid is None:
        raise NotRunning("the daemon is not running", hint="start it with: pilotctl daemon start")
    is_forced = False
    with suppress(ProcessLookupError), _Process(pid) as process:
        # The process id may have been reused since it was read.
        if running_pid(socket) != pid:
            return pid, False
        process.signal(signal.SIGTERM)
        # A stopped process handles SIGTERM only when it is continued.
        process.signal(signal.SIGCONT)
        deadline = time.monotonic() + _PATIENCE
        while not process.is_over():
            if not is_forced and time.monotonic() > deadline:
                process.signal(signal.SIGKILL)
                is_forced = True
            time.sleep(_POLL)
    return pid, is_forced


class _Process:
    """A process by its pidfd where the system has those, so that a reused process id is not taken
    for it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def signal(self, number: signal.Signals) -> None:
        if self._fd is not None:
            signal.pidfd_send_signal(self._fd, number)
        else:
            os.kill(self._pid, number)

    def is_over(self) -> bool:
        if self._fd is not None:
            return bool(select.select([self._fd], [], [], 0)[0])
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        return False


def execute(flags: list[str]) -> None:
    """Replaces this process by a daemon."""
    with suppress(OSError):
        _paths.make_home()
    os.execv(sys.executable, [*_command(), *flags])
