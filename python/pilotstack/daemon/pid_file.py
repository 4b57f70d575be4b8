"""The background daemon's pid file. The daemon holds a lock on it while it lives, so that a number
in a file that nobody locks means nothing, whatever process has that number now."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pilotstack import _paths
from pilotstack.daemon.endpoint import lock_file
from pilotstack.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_MAX_TEXT = 32
#: How often a file that nobody seems to own is tried to lock, and the seconds between.
_ATTEMPTS = 50
_PAUSE = 0.02


class PidFile:
    """This process's number in a file that it locks; a context manager that removes it.

    Raises:
        AlreadyExists: a live daemon has it.
        InvalidArgument: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _paths.make_directories(path.parent)
            self._lock = _lock(path)
            os.ftruncate(self._lock, 0)
            os.fchmod(self._lock, 0o600)
            os.write(self._lock, str(os.getpid()).encode())
        except BlockingIOError as error:
            raise AlreadyExists(
                f"the daemon runs already, as process {owner(path)}",
                hint="stop it with: pilotctl daemon stop",
            ) from error
        except OSError as error:
            raise InvalidArgument(
                f"cannot write the pid file {path}: {error.strerror}",
                hint="name another directory with PILOT_HOME",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._path.unlink()
        os.close(self._lock)


def _lock(path: Path) -> int:
    for _ in range(_ATTEMPTS):
        try:
            return lock_file(path)
        except BlockingIOError:
            # Somebody may only look who has it.
            if owner(path) is not None:
                raise
            time.sleep(_PAUSE)
    return lock_file(path)


def owner(path: Path) -> int | None:
    """The process that has the file locked, if there is one and it said who it is."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(file, _MAX_TEXT)
        return int(text) if text.isdigit() and int(text) > 1 else None
    except OSError:
        return None
    finally:
        os.close(file)
    return None
