"""The pid file of the daemon in the background.

The daemon locks it as long as it runs. A file that nobody locks is stale, whatever process has its
number now.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pilotstack import _paths
from pilotstack.daemon.ipc_socket import lock_file
from pilotstack.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_MAX_TEXT = 32
#: Attempts to lock a file that no daemon owns, and seconds between them.
_ATTEMPTS = 50
_PAUSE = 0.02


class PidFile:
    """Writes this process's id to a file and locks it; a context manager that removes the file.

    Raises:
        AlreadyExists: a running daemon has locked it.
        InvalidArgument: the file cannot be written.
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
            # Another process may hold a shared lock for a moment, to look for an owner.
            if owner(path) is not None:
                raise
            time.sleep(_PAUSE)
    return lock_file(path)


def owner(path: Path) -> int | None:
    """The process that has locked the file, if there is one and it has written its id."""
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
