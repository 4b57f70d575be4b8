"""The daemon's Unix socket: private from the start, taken over when stale, never when live."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from types import TracebackType

_BACKLOG = 1024


class IpcSocket:
    """A listening socket of mode 0600 at a path; a context manager that removes it.

    Raises:
        AlreadyExists: another daemon serves the path.
        InvalidArgument: the path cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidArgument(
                f"cannot make a socket at {path}: {error.strerror}",
                hint="choose another path with --socket",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._refuse_live()
            self.socket = self._bind()
        except BlockingIOError as error:
            os.close(self._lock)
            raise self._taken() from error
        except BaseException:
            os.close(self._lock)
            raise

    def _taken(self) -> AlreadyExists:
        return AlreadyExists(
            f"a daemon already serves {self.path}",
            hint="stop it with: pilotctl daemon stop, or choose another path with --socket",
        )

    def _refuse_live(self) -> None:
        """A daemon of another make holds no lock of ours, but answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except OSError:
                return
        raise self._taken()

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with tempfile.TemporaryDirectory(prefix=".pilot-", dir=self.path.parent) as staging:
                staged = Path(staging) / "s"
                listener.bind(str(staged))
                staged.chmod(0o600)
                listener.listen(_BACKLOG)
                staged.replace(self.path)
        except OSError as error:
            listener.close()
            raise InvalidArgument(
                f"cannot make a socket at {self.path}: {error.strerror or error}",
                hint="choose another, shorter path with --socket",
            ) from error
        return listener

    def __enter__(self) -> IpcSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
        for path in (self.path, self._lock_path):
            with suppress(OSError):
                path.unlink()
        os.close(self._lock)
