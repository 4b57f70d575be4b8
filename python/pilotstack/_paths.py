"""Places of this user's files and sockets, chosen so that no other user can have prepared them, and
connections to a socket whose server is checked before anything is sent."""

from __future__ import annotations

import os
import socket as sockets
import stat
import struct
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pilotstack.errors import InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME: Final = "pilot.sock"
#: Where existing programs look for a daemon. Everybody may create files in ``/tmp``, so a socket
#: there is used only if it belongs to this user.
COMMON_SOCKET: Final = Path("/tmp/pilot.sock")
#: Bytes of a path in a ``sockaddr_un``, without the NUL (unix(7); macOS has 104 with it).
MAX_SOCKET_PATH: Final = 103
#: Environment variable: the uid of another user whose daemon is trusted.
_TRUSTED_UID: Final = "PILOT_SOCKET_UID"
_ROOT: Final = 0
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
#: ``SOL_LOCAL`` and ``LOCAL_PEERCRED`` of BSD systems.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_LEN = 0, 1, 76


def home() -> Path:
    """The directory of identity, pid file and log: ``.pilot`` in ``$PILOT_HOME``, else in the
    user's home directory if it is there; else ``$STATE_DIRECTORY`` of systemd, ``pilot`` in
    ``$XDG_STATE_HOME``, or a new ``.pilot`` in the home directory; if none is writable, a private
    directory in ``/tmp``.

    Raises:
        PermissionDenied: none is writable, and another user has made the one in ``/tmp``.
    """
    if named := os.environ.get("PILOT_HOME"):
        return Path(named).absolute() / ".pilot"
    places: list[Path] = []
    with suppress(RuntimeError):
        places.append(Path.home().absolute() / ".pilot")
    if not (places and places[0].is_dir()):
        places = [*_state_directories(), *places]
    for place in places:
        if _is_usable(place):
            return place
    with suppress(FileNotFoundError):
        _check_private(_temporary())
    return _temporary()


def configuration_directories() -> list[Path]:
    """Where systemd and the XDG base directories want settings to be, besides :func:`home`."""
    return _directories("CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME")


def _state_directories() -> list[Path]:
    return _directories("STATE_DIRECTORY", "XDG_STATE_HOME")


def _directories(of_service: str, of_user: str) -> list[Path]:
    """The directories that two variables name: one of systemd (systemd.exec(5)), which is ours, and
    one of the XDG base directories, in which ``pilot`` is."""
    # Several are separated by colons.
    named = os.environ.get(of_service, "").partition(":")[0]
    found = [Path(named)] if named.startswith("/") else []
    # Other than absolute paths are to be ignored.
    if (base := os.environ.get(of_user, "")).startswith("/"):
        found.append(Path(base) / "pilot")
    return found


def make_home() -> Path:
    """Creates :func:`home` if it is missing, and returns it.

    Raises:
        PermissionDenied: see :func:`home`.
        OSError: it cannot be created.
    """
    directory = home()
    if is_lasting(directory):
        make_directories(directory)
    else:
        make_private(directory)
    return directory


def is_lasting(directory: Path) -> bool:
    """Whether the directory should survive a reboot: the one in ``/tmp`` may not."""
    return directory != _temporary()


def default_socket() -> Path:
    """Where programs find the daemon: ``$PILOT_SOCKET``, else the first default place that has a
    socket of this user, else the place where a daemon would create one."""
    if named := os.environ.get("PILOT_SOCKET"):
        return Path(named)
    places = [directory / SOCKET_NAME for directory in _socket_directories()]
    session = Path(f"/run/user/{os.geteuid()}") / SOCKET_NAME
    for place in (*places, session, COMMON_SOCKET):
        if is_own_socket(place):
            return place
    return places[0]


def socket_to_make() -> Path:
    """Where a daemon creates its socket: ``$PILOT_SOCKET``, else ``pilot.sock`` in the runtime
    directory of the service, else of the user, else in ``run`` in :func:`home`, else in a private
    directory in ``/tmp``."""
    if named := os.environ.get("PILOT_SOCKET"):
        return Path(named)
    return _socket_directories()[0] / SOCKET_NAME


def _socket_directories() -> list[Path]:
    places = []
    of_service = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    for runtime in filter(None, (of_service, os.environ.get("XDG_RUNTIME_DIR"))):
        # It may not exist (cron, su) or be another user's (sudo -E).
        with suppress(OSError, ValueError):
            status = os.stat(runtime)
            if _is_private(status) and not status.st_mode & _OTHERS_WRITE:
                places.append(Path(runtime))
    with suppress(PermissionDenied):
        below_home = home() / "run"
        if len(os.fsencode(below_home / SOCKET_NAME)) <= MAX_SOCKET_PATH:
            places.append(below_home)
    return [*places, _temporary()]


def _temporary() -> Path:
    return Path(f"/tmp/pilot-{os.geteuid()}")


def _is_private(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_usable(directory: Path) -> bool:
    """Whether this user can write there, and no unprivileged other can."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        return os.access(directory.parent, os.W_OK | os.X_OK)
    except OSError:
        return False
    is_ours = status.st_uid in {os.geteuid(), _ROOT} and not status.st_mode & stat.S_IWOTH
    return is_ours and os.access(directory, os.W_OK | os.X_OK)


def is_own_socket(path: Path) -> bool:
    """Whether the path is a socket of this user; a symbolic link is not."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()


def make_directories(path: Path) -> None:
    """Creates a directory and its missing parents with mode 0700, whatever the umask is.

    Raises:
        OSError: one cannot be created.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)


def make_private(path: Path) -> None:
    """Creates a directory if it is missing, and makes it private to this user.

    Raises:
        PermissionDenied: it is another user's.
        OSError: it cannot be created.
    """
    make_directories(path)
    if _check_private(path).st_mode & 0o077:
        path.chmod(0o700)


def _check_private(path: Path) -> os.stat_result:
    status = path.lstat()
    if not _is_private(status):
        raise PermissionDenied(
            f"{path} is not a directory of this user",
            hint="remove it, or name another place with PILOT_HOME or PILOT_SOCKET",
        )
    return status


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """The address to bind or connect a socket at this path. A path that is too long for an address
    is replaced by one through ``/proc/self/fd``, where the system has that.

    Raises:
        InvalidArgument: the path is too long.
        OSError: its directory cannot be opened.
    """
    text = str(path)
    if len(os.fsencode(text)) <= MAX_SOCKET_PATH:
        yield text
        return
    # Linux alone has O_PATH, as it has /proc/self/fd.
    directory = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(short)) > MAX_SOCKET_PATH or not Path(short).parent.exists():
            raise InvalidArgument(
                f"a socket's path has at most {MAX_SOCKET_PATH} bytes: {path}",
                hint="choose a shorter path with --socket or PILOT_SOCKET",
            )
        yield short
    finally:
        os.close(directory)


def connect(socket: sockets.socket, path: Path) -> None:
    """Connects to the daemon's socket if this user or root serves it.

    Raises:
        PermissionDenied: another user serves it; nothing was sent.
        InvalidArgument: the path is too long.
        OSError: the connection fails.
    """
    with socket_address(path) as address:
        socket.connect(address)
    check_server(socket, path)


def check_server(socket: sockets.socket, path: Path) -> None:
    """Checks that this user or root serves a connected socket.

    Raises:
        PermissionDenied: another user does; nothing was sent.
    """
    uid = peer(socket)[1]
    if uid is None or uid in {os.geteuid(), _ROOT} or str(uid) == os.environ.get(_TRUSTED_UID):
        return
    raise PermissionDenied(
        f"{path} is served by another user (uid {uid}); nothing was sent",
        hint=f"run this as that user, or set {_TRUSTED_UID}={uid} if that user is to be trusted",
    )


def peer(socket: sockets.socket) -> tuple[int | None, int | None]:
    """Process id and uid of the peer of a connected Unix socket, or ``None`` where the system does
    not tell. Those of a server are of the time when it called ``listen``."""
    if hasattr(sockets, "SO_PEERCRED"):
        data = socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3I", data)
        return pid or None, uid
    try:
        data = socket.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_LEN)
    except OSError:
        return None, None
    return None, struct.unpack_from("2I", data)[1]
