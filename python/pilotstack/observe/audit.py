"""The audit log: security events of a process as lines of JSON, with numbers that show gaps
(``docs/reference/audit.md``).

A number is spent for each event, also for one that could not be written or was over the rate: what
is missing shows. Numbers go on after a restart, and after the file was moved away. Never written
are secrets and payloads.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pilotstack import _events, _files
from pilotstack.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

log = _events.get_logger(__name__)

#: Lines per second over time, and at once: events of strangers must not fill the disk.
RATE: Final = 50.0
BURST: Final = 1000.0
#: Bytes at the end of a file that are searched for its last number, and of a line.
_TAIL: Final = 1 << 16
_MAX_TEXT: Final = 500
#: Seconds between two complaints in the log.
_TELL_EVERY: Final = 60.0


class AuditLog:
    """Writes security events; a context manager that receives them while it lasts.

    Args:
        path: of the file; made with mode 0600.
        program: in the first line.
        clock: Unix seconds.

    Raises:
        AlreadyExists: another process writes it.
        InvalidArgument: it cannot be written.
    """

    def __init__(self, path: Path, program: str, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._program = program
        self._clock = clock
        self._allowance = BURST
        self._filled_at = clock()
        self._told_at = -_TELL_EVERY
        self._fd = -1
        try:
            self._open()
            self._number = self._last_number()
        except AlreadyExists:
            raise
        except OSError as error:
            self._close()
            raise InvalidArgument(
                f"cannot write the audit log {path}: {error.strerror or error}",
                hint="name a file in a directory of this user with --audit-log",
            ) from error
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> AuditLog:
        self.note("audit_started", {"program": self._program, "pid": os.getpid()})
        _events.set_audit(self.note)
        return self

    def __exit__(self, *error: object) -> None:
        _events.set_audit(None)
        self.note("audit_ended", {"program": self._program})
        self._close()

    def note(self, event: str, members: Mapping[str, object]) -> None:
        """Writes an event. It never fails: what is lost leaves a gap in the numbers."""
        self._number += 1
        now = self._clock()
        self._allowance = min(BURST, self._allowance + RATE * max(0.0, now - self._filled_at))
        self._filled_at = now
        if self._allowance < 1:
            self._complain("audit_limited", now)
            return
        self._allowance -= 1
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        shown = {name: _shown(value) for name, value in members.items() if value is not None}
        line = json.dumps({"seq": self._number, "time": stamp, "event": event, **shown})
        try:
            self._follow()
            _files.write_all(self._fd, line.encode() + b"\n")
        except OSError as error:
            self._complain("audit_not_written", now, error.strerror or str(error))

    def _complain(self, event: str, now: float, why: str = "") -> None:
        if now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            log.error(event, path=str(self._path), seq=self._number, why=why)

    def _open(self) -> None:
        fd = _files.open_regular(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, _files.PRIVATE)
        except BlockingIOError as error:
            os.close(fd)
            raise AlreadyExists(
                f"another process writes {self._path}", hint="name another file with --audit-log"
            ) from error
        except BaseException:
            os.close(fd)
            raise
        self._close()
        self._fd = fd

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        """Begins a new file if the one before was moved away or removed."""
        with suppress(FileNotFoundError):
            named, own = os.stat(self._path, follow_symlinks=False), os.fstat(self._fd)
            if (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino):
                return
        self._open()

    def _last_number(self) -> int:
        """The last number of the file; a line that was cut off is ended."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, _TAIL, max(0, size - _TAIL))
        if tail and not tail.endswith(b"\n"):
            _files.write_all(self._fd, b"\n")
        for line in reversed(tail.splitlines()):
            with suppress(ValueError, TypeError, KeyError):
                return int(json.loads(line)["seq"])
        return 0


def audited(path: Path | None, program: str) -> AbstractContextManager[object]:
    """The audit log at a path, if there is one.

    Raises:
        AlreadyExists: another process writes it.
        InvalidArgument: it cannot be written.
    """
    return nullcontext() if path is None else AuditLog(path, program)


def _shown(value: object) -> object:
    """A member as JSON; text of others is cut."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(each) for each in value]
    return str(value)[:_MAX_TEXT]
