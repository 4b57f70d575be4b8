"""Checks of this host: descriptors, disk, permissions, what crashes left behind, versions."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack.diagnosis.findings import Finding, error, fine, note, warning

if TYPE_CHECKING:
    from pathlib import Path

#: Descriptors below which a daemon soon refuses streams, and below which it hardly starts.
_FEW, _TOO_FEW = 4096, 256
#: Share of them in use at which there are not many left.
_NEARLY: Final = 0.9
#: Bytes on the disk: below the first, state may not be kept.
_FULL, _LITTLE = 4 << 20, 200 << 20
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH
_PARTS: Final = 3


def descriptors(limit: int, used: int = 0) -> Finding:
    """Whether there are enough descriptors.

    Args:
        limit: that a daemon may raise its own to, or has.
        used: by the daemon, if one runs.
    """
    fix = "raise it: LimitNOFILE=65536 in the unit, or ulimit -Hn 65536"
    if limit < _TOO_FEW:
        return error("descriptors_too_few", f"A process may open {limit} files only.", fix)
    if used > _NEARLY * limit:
        return error("descriptors_used_up", f"The daemon has opened {used} of {limit} files.", fix)
    if limit < _FEW:
        text = f"A process may open {limit} files, and each stream of a program is one."
        return warning("descriptors_few", text, fix)
    return fine("descriptors_enough", f"A process may open {limit} files.")


def disk(path: Path, free_bytes: int) -> Finding:
    """Whether there is room for state, and for what peers send."""
    text = f"{free_bytes >> 20} MiB are free at {path}"
    if free_bytes < _FULL:
        return error("disk_full", f"Only {text}: state cannot be kept.", "make room on that disk")
    if free_bytes < _LITTLE:
        return warning("disk_nearly_full", f"Only {text}.", "make room on that disk")
    return fine("disk_room", f"{text}.")


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder of this user; ``mode`` is ``None`` if it is missing."""

    path: Path
    mode: int | None = None
    uid: int = 0
    #: This user can write to it.
    is_writable: bool = True
    #: What is in it is secret.
    is_secret: bool = False


def permissions(place: Place, uid: int) -> Finding | None:
    """Whether only this user can prepare and read a place; ``None`` if nothing is to be said."""
    path, mode = place.path, place.mode
    if mode is None:
        return None
    is_folder = stat.S_ISDIR(mode)
    wanted = "700" if is_folder else "600"
    if place.uid not in {uid, 0}:
        return error(
            "permissions_owner",
            f"{path} belongs to another user (uid {place.uid}).",
            f"chown {uid} {path}, or name another place with PILOT_HOME",
        )
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        return error(
            "permissions_writable", f"Other users can write to {path}.", f"chmod {wanted} {path}"
        )
    if place.is_secret and mode & _OTHERS_READ:
        return error(
            "permissions_readable",
            f"Other users can read {path}, which holds a key.",
            f"chmod {wanted} {path}, then: pilotctl rotate-key",
        )
    if not place.is_writable:
        return warning(
            "permissions_read_only",
            f"{path} cannot be written: trust and the key's rotation are not kept.",
            f"chmod u+w {path}, or name another place with PILOT_HOME",
        )
    return None


def identity(path: Path, problem: str) -> Finding | None:
    """Whether the identity can be used.

    Args:
        problem: why it cannot; empty if it can.
    """
    if not problem:
        return None
    return error(
        "identity_unusable",
        f"The identity cannot be used: {problem}.",
        f"restore {path} from a backup; without one, move it away to get a new address",
    )


def pid_file(path: Path, *, is_there: bool, is_locked: bool) -> Finding | None:
    """Whether a crash left a pid file."""
    if is_locked or not is_there:
        return None
    return note(
        "pid_file_stale",
        f"{path} is left from a daemon that crashed; it does no harm.",
        f"rm {path}",
    )


@dataclass(frozen=True, slots=True)
class Socket:
    """A place where the daemon's socket is, or would be."""

    path: Path
    is_there: bool = False
    uid: int = 0
    #: Something accepts connections; if not, nobody listens.
    is_served: bool = False


def socket(place: Socket, uid: int) -> Finding | None:
    """Whether a socket is left over, or another user's."""
    if not place.is_there:
        return None
    path = place.path
    if place.uid not in {uid, 0}:
        return error(
            "socket_of_another",
            f"{path} belongs to another user (uid {place.uid}), and is not used.",
            "name another place with --socket or PILOT_SOCKET",
        )
    if not place.is_served:
        return note(
            "socket_stale",
            f"{path} is left from a daemon that crashed; it does no harm.",
            f"rm {path}",
        )
    return None


@dataclass(frozen=True, slots=True)
class Running:
    """The daemon, as far as it can be told."""

    pid: int | None = None
    is_answering: bool = False
    version: str = ""
    #: Why it does not answer.
    problem: str = ""


def daemon(running: Running, version: str) -> Finding:
    """Whether a daemon runs, answers, and is as new as this program."""
    if not running.is_answering and running.pid is not None:
        return error(
            "daemon_hung",
            f"The daemon (process {running.pid}) does not answer: {running.problem}.",
            "pilotctl daemon stop, then: pilotctl daemon start",
        )
    if not running.is_answering:
        return note("daemon_not_running", "No daemon runs.", "pilotctl daemon start")
    theirs, ours = _parts(running.version), _parts(version)
    if theirs < ours:
        return warning(
            "daemon_older",
            f"The daemon is {running.version or 'of an unknown version'}, this program {version}.",
            "pilotctl daemon stop, then: pilotctl daemon start",
        )
    if theirs > ours:
        return warning(
            "daemon_newer",
            f"The daemon is {running.version}, this program {version}.",
            "pip install --upgrade pilotstack",
        )
    return fine("daemon_answers", f"The daemon answers, and is {version} as this program.")


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a version; digits of others do not count for more."""
    found = []
    for part in version.split(".")[:_PARTS]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        found.append(int(digits[:9]) if digits else 0)
    return tuple(found) + (0,) * (_PARTS - len(found))


def place_of(path: Path, *, is_secret: bool = False) -> Place:
    """What the system says of a path, itself and not what a link leads to."""
    try:
        status = path.lstat()
    except OSError:
        return Place(path)
    return Place(path, status.st_mode, status.st_uid, os.access(path, os.W_OK), is_secret)
