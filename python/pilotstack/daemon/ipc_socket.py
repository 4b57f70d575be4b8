"""The daemon's Unix socket: created with mode 0600, replacing a stale one, never a live one."""

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
        path: of the socket; ``None`` for the default place, whose directory is created if it is
            missing, and to which ``/tmp/pilot.sock`` is linked if that name is free.

    Raises:
        AlreadyExists: another daemon serves the path, or it is something else than a stale socket
            of this user.
        InvalidArgument: no socket can be created there.
        PermissionDenied: another user has made the default place.
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
        """Refuses a path that is in use. Other implementations hold no lock, so the socket is
        tried; files that are no socket of this user are never replaced."""
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
            # A daemon that hangs still owns its socket.
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
                # Clients must be able to connect to the path as well.
                with _paths.socket_address(self.path):
                    staged.replace(self.path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _make_link(self) -> None:
        """Links ``/tmp/pilot.sock``, where existing programs look, unless another user has that
        name."""
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
    """Opens and locks a file, which is created if it is missing. The owner of the lock may remove
    the file.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be created, or is a symbolic link.
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
        # The last owner removed the file between the two calls.
        os.close(lock)
