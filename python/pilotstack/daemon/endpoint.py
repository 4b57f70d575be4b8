"""The daemon's Unix socket: private from the start, taken over when stale, never when live."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack import _paths
from pilotstack.errors import AlreadyExists, InvalidArgument, PilotError

if TYPE_CHECKING:
    from types import TracebackType

_BACKLOG = 1024
_ANOTHER_PATH = "choose another path with --socket"


class IpcSocket:
    """A listening socket of mode 0600 at a path; a context manager that removes it.

    Args:
        path: where; ``None`` for the default place, which is made if it is missing, and to which
            the path that existing programs look at leads then, if nobody else has that.

    Raises:
        AlreadyExists: another daemon serves the path, or something that is no stale socket of this
            user is there.
        InvalidArgument: the path cannot be used.
        PermissionDenied: somebody else prepared the default place.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = (path or _paths.socket_to_make()).absolute()
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        self._link: Path | None = None
        with ExitStack() as stack:
            try:
                if path is None:
                    _paths.make_private(self.path.parent)
                self._lock = lock_file(self._lock_path)
                stack.callback(self._unlock)
                self._refuse_live()
                self.socket = self._bind()
            except BlockingIOError as error:
                raise self._taken() from error
            except PilotError:
                raise
            except OSError as error:
                raise self._unusable(error) from error
            stack.pop_all()
        status = self.path.lstat()
        self._inode = (status.st_dev, status.st_ino)
        if path is None and not os.environ.get("PILOT_SOCKET"):
            self._make_link()

    def _unusable(self, error: OSError) -> InvalidArgument:
        return InvalidArgument(
            f"cannot make a socket at {self.path}: {error.strerror or error}",
            hint=_ANOTHER_PATH,
        )

    def _taken(self) -> AlreadyExists:
        return AlreadyExists(
            f"a daemon already serves {self.path}",
            hint="stop it with: pilotctl daemon stop, or choose another path with --socket",
        )

    def _refuse_live(self) -> None:
        """A daemon of another make holds no lock of ours, but answers. What is no socket, or is
        not ours, is nothing to replace."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        is_link = stat.S_ISLNK(status.st_mode)
        if status.st_uid != os.geteuid() or not (is_link or stat.S_ISSOCK(status.st_mode)):
            raise AlreadyExists(
                f"{self.path} is there and no socket of this user", hint=_ANOTHER_PATH
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A daemon that hangs answers no better later.
            probe.settimeout(1.0)
            try:
                with _paths.socket_address(self.path) as address:
                    probe.connect(address)
            except TimeoutError:
                pass
            except OSError:
                return
        raise self._taken()

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with tempfile.TemporaryDirectory(prefix=".pilot-", dir=self.path.parent) as staging:
                staged = Path(staging) / "s"
                with _paths.socket_address(staged) as address:
                    listener.bind(address)
                staged.chmod(0o600)
                listener.listen(_BACKLOG)
                # Whoever connects has to be able to name it as well.
                with _paths.socket_address(self.path):
                    staged.replace(self.path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _make_link(self) -> None:
        """Existing programs look in /tmp. Whoever else is there stays there."""
        common = _paths.COMMON_SOCKET
        with suppress(OSError):
            if common.is_symlink() and common.lstat().st_uid == os.geteuid():
                common.unlink()
        with suppress(OSError):
            common.symlink_to(self.path)
            self._link = common

    def __enter__(self) -> IpcSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
        with suppress(OSError):
            if self._link is not None and self._link.readlink() == self.path:
                self._link.unlink()
        with suppress(OSError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._inode:
                self.path.unlink()
        self._unlock()

    def _unlock(self) -> None:
        with suppress(OSError):
            self._lock_path.unlink()
        os.close(self._lock)


def lock_file(path: Path) -> int:
    """Opens a file that only one process has at a time; made if it is missing. Whoever has it
    may remove it.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be made, or is a symbolic link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        lock = os.open(path, flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.lstat()):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        # Its last owner removed it between the two calls.
        os.close(lock)
