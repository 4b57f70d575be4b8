"""Starts the gateway in the background, or in place of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from pilotstack import _paths, wellknown
from pilotstack.errors import ConnectionFailed, InvalidArgument, from_code
from pilotstack.gateway.process import Ready

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pilotstack.errors import PilotError

Value = str | bool | int | float | object | None

_ENTRY = "from pilotstack._entry import pilot_gateway; pilot_gateway()"
#: Bytes at the end of the log that are searched for the reason of a failed start.
_MAX_LOG = 1 << 16


def log_file() -> Path:
    """The log of the gateway in the background."""
    return wellknown.home() / "gateway.log"


def flags_of(options: Mapping[str, Value], agents: tuple[str, ...]) -> list[str]:
    """The arguments of ``pilot-gateway`` for options of ``pilotctl``."""
    flags = ["run"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return [*flags, "--", *agents]


def execute(flags: list[str], *extra: str) -> None:
    """Replaces this process by a gateway."""
    os.execv(sys.executable, [sys.executable, "-c", _ENTRY, flags[0], *extra, *flags[1:]])


def start(flags: list[str]) -> Ready:
    """Starts a gateway in the background and waits until it serves.

    Raises:
        PilotError: it ended instead; the message says why.
        InvalidArgument: the log cannot be written.
    """
    try:
        _paths.make_home()
        fd = os.open(log_file(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"cannot write {log_file()}: {error.strerror}",
            hint="name another directory with PILOT_HOME",
        ) from error
    with os.fdopen(fd, "ab") as log:
        begin = os.fstat(log.fileno()).st_size
        process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, flags[0], "--json", *flags[1:]],
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
        # An interrupted start leaves no gateway behind.
        process.terminate()
        process.wait()
        raise
    if not line:
        process.wait()
        raise _explain(begin)
    return msgspec.json.decode(line, type=Ready)


def _explain(begin: int) -> PilotError:
    with log_file().open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(begin, end - _MAX_LOG))
        lines = log.read().decode(errors="replace").strip().splitlines()
    for line in reversed(lines):
        try:
            report = json.loads(line)
            return from_code(report["code"], report["message"], report.get("hint"))
        except (ValueError, KeyError, TypeError):
            continue
    last = lines[-1] if lines else "its log is empty"
    return ConnectionFailed(
        f"the gateway did not start: {last}", hint=f"the log is in {log_file()}"
    )
