"""A socket to the daemon and the session on it: what the shells for anyio and for threads share.
Nothing here waits."""

from __future__ import annotations

import array
import os
import select
import socket as sockets
import stat
import sys
import weakref
from abc import ABC, abstractmethod
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pilotstack import _paths, wellknown
from pilotstack.client._session import Answer, DriverSession, discard, too_many_files
from pilotstack.errors import (
    ForkedDriver,
    InvalidArgument,
    NotRunning,
    PermissionDenied,
    PilotError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.client._session import Event

NO_DAEMON_HINT = "start the daemon with: pilotctl daemon start"
#: Why a stream ended when no daemon is left to say.
DAEMON_GONE = "daemon_gone"
#: Seconds that the daemon has for an answer, unless told otherwise.
PATIENCE = 30.0
#: Seconds that a daemon has to greet.
SETUP = 10.0
#: Seconds that the daemon has for a dial, unless told otherwise.
DIAL = 25.0
#: Seconds beyond a dial's limit in which the daemon says that it is over.
GRACE = 1.0
#: Seconds that it has to free what is closed.
CLOSE = 2.0
#: Streams that wait to be accepted; later ones are reset.
MAX_BACKLOG = 4096
#: Datagrams that wait to be received; later ones are dropped, as a network would.
MAX_DATAGRAMS = 1024
#: Seconds between attempts to connect: the first, and the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

_READ = 1 << 16
#: Reads before others get a turn.
_READS = 4096
_MAX_FDS = 64
_ANCILLARY = sockets.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
_CLOEXEC = int(getattr(sockets, "MSG_CMSG_CLOEXEC", 0))
# As plain numbers: the flags of the standard library take long to combine.
_CTRUNC = int(sockets.MSG_CTRUNC)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> array.array[int]:
    fds = array.array("i")
    for level, kind, body in ancillary:
        if level == sockets.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return fds


class Inherited(Protocol):
    """What holds descriptors that a child process must not keep."""

    def _after_fork(self) -> None:
        """Closes this process's copies. They are another process's to use."""


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_after_fork(holder: Inherited) -> None:
    """Has ``holder`` told in every process that is forked off."""
    _inherited.add(holder)


#: The process that this module works in; another number means that an object came through a fork.
process = os.getpid()


def _after_fork() -> None:
    global process
    process = os.getpid()
    for holder in list(_inherited):
        with suppress(OSError):
            holder._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def forked() -> ForkedDriver:
    """The error for a driver that came through a fork."""
    return ForkedDriver(
        "this driver was made before a fork, by another process",
        hint="make a driver in each process, after the fork",
    )


def not_running(path: Path) -> NotRunning:
    """The error for a socket where nobody answers."""
    is_default = path == _paths.default_socket()
    hint = NO_DAEMON_HINT if is_default else f"{NO_DAEMON_HINT} --socket {path}"
    return NotRunning(f"no daemon answers at {path}", hint=hint)


def gone() -> NotRunning:
    """The error for a session that ended."""
    return NotRunning("the daemon went away", hint=NO_DAEMON_HINT)


class InProcess(ABC):
    """A daemon in this process, which drivers reach without a path."""

    @abstractmethod
    def attach(self) -> sockets.socket:
        """A driver's end of a socket pair whose other end the daemon has; it does not block.

        Raises:
            NotRunning: the daemon does not run.
        """


#: Where a daemon takes drivers.
Place = Path | InProcess


def place_of(named: str | os.PathLike[str] | InProcess | None) -> Place:
    """Where the daemon of a driver's argument is."""
    if isinstance(named, InProcess):
        return named
    return Path(named) if named else wellknown.default_socket()


def open_socket(place: Place) -> sockets.socket | None:
    """A socket that is connected to a daemon and does not block. ``None`` while its queue is full.

    Raises:
        NotRunning: nobody listens there.
        PermissionDenied: it is not for this user, or another user serves it.
        InvalidArgument: there can be no socket of this name.
        Unavailable: this process may open no more files.
    """
    if isinstance(place, InProcess):
        return place.attach()
    socket = new_socket()
    try:
        is_connected = connect(socket, place)
    except BaseException:
        socket.close()
        raise
    if is_connected:
        return socket
    socket.close()
    return None


def new_socket() -> sockets.socket:
    """A socket to connect with :func:`connect`.

    Raises:
        Unavailable: this process may open no more files.
    """
    try:
        socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    except OSError as error:
        raise too_many_files() from error
    socket.setblocking(False)
    return socket


def connect(socket: sockets.socket, path: Path) -> bool:
    """Connects to a daemon. ``False`` when its queue is full for now.

    Raises:
        NotRunning: nobody listens there.
        PermissionDenied: it is not for this user, or another user serves it.
        InvalidArgument: there can be no socket of this name.
    """
    if "\0" in str(path):
        raise InvalidArgument(f"no socket can have this path: {str(path)!r}")
    try:
        with _paths.socket_address(path) as name:
            socket.connect(name)
    except (BlockingIOError, InterruptedError):
        return False
    except PermissionError as error:
        raise PermissionDenied(
            f"the daemon's socket at {path} is not for this user",
            hint="use the daemon of this user, or run as the user that started it",
        ) from error
    except OSError as error:
        raise not_running(path) from error
    _paths.check_server(socket, path)
    return True


def remove_stale(path: bytes) -> None:
    """Removes a forwarded path that a daemon left which was killed: a socket without a listener."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


def shut(socket: sockets.socket) -> None:
    """Ends a connection, though a child process may hold a copy of it."""
    with suppress(OSError):
        socket.shutdown(sockets.SHUT_RDWR)


def is_hung_up(socket: sockets.socket) -> bool:
    """Whether the other end is closed altogether, not only shut for writing."""
    poll = select.poll()
    try:
        poll.register(socket, 0)
        events = poll.poll(0)
    except (OSError, ValueError):
        return True
    return any(flags & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, flags in events)


def is_cut(socket: sockets.socket) -> bool:
    """Whether the daemon closed its end of a stream, which it does not by the peer's FIN alone.

    Only Linux tells that from the end of one direction.
    """
    return sys.platform == "linux" and is_hung_up(socket)


class Ending(Enum):
    """What no reason for a break means."""

    FIN = "fin"
    #: It looks like FIN, or the daemon is ending at this moment: an answer of it tells.
    DOUBT = "doubt"


class Wire:
    """A non-blocking socket to a daemon and the session on it.

    Args:
        socket: one that is connected.
    """

    def __init__(self, socket: sockets.socket) -> None:
        self.socket = socket
        self.session = DriverSession()
        #: Called before the socket is closed, for those who wait for it.
        self.on_close: Callable[[sockets.socket], None] | None = None
        self.is_closed = False
        #: The daemon ended it.
        self.is_lost = False
        # It takes nothing any more.
        self._is_deaf = False
        self._process = process
        # Bytes are between the socket and the session; who is interrupted there loses count.
        self._is_moving = False
        close_after_fork(self)

    def _after_fork(self) -> None:
        """Closes the copies of this process."""
        self.socket.close()
        self.session.close()

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""
        return self._process != process

    def check_fork(self) -> None:
        """Raises :exc:`ForkedDriver` if this is another process's."""
        if self.is_forked:
            raise forked()

    def check(self) -> None:
        """Raises what stands against using it.

        Raises:
            ForkedDriver: it came through a fork.
            NotRunning: it is closed.
        """
        self.check_fork()
        if self.is_closed:
            raise gone() if self.is_lost else closed()

    def close(self) -> None:
        """Ends the session. Streams live on."""
        if self.is_closed:
            return
        self.is_closed = True
        if not self.is_forked:
            shut(self.socket)
            if self.on_close is not None:
                self.on_close(self.socket)
        self.socket.close()
        self.session.close()

    def lose(self) -> None:
        """The daemon ended the session, or it cannot go on."""
        self.is_lost = self.is_lost or not self.is_closed
        self.close()

    def _begin_moving(self) -> None:
        self.check()
        if self._is_moving:
            self.lose()
            raise NotRunning(
                "a call was interrupted while it moved bytes, and the session ended by that",
                hint="make a new driver",
            )
        self._is_moving = True

    def flush(self) -> bool:
        """Sends what the socket takes. ``True`` when nothing is left.

        Raises:
            NotRunning: the daemon is gone.
        """
        out = self.session.out
        while (data := out.next()) is not None:
            self._begin_moving()
            try:
                out.sent(self.socket.send(data))
            except (BlockingIOError, InterruptedError):
                self._is_moving = False
                return False
            except OSError as error:
                self._is_moving = False
                if self._is_deaf:
                    self.lose()
                    raise gone() from error
                # What it said before it closed its end, such as why, is still to be read.
                self._is_deaf = True
                out.clear()
            self._is_moving = False
        return True

    def drain(self, *, until_answered: bool = False) -> list[Event]:
        """Takes what has arrived; the session is closed at its end.

        Args:
            until_answered: stop after the only answer that is waited for, though more may have
                arrived: looking for it costs a system call.

        Raises:
            NotRunning: it was closed before.
            InternalError: the daemon sent what is malformed.
        """
        events: list[Event] = []
        for _ in range(_READS):
            if self.is_closed:
                break
            self._begin_moving()
            try:
                is_more = self._read(events)
            except PilotError:
                discard(events)
                self.lose()
                raise
            self._is_moving = False
            if not is_more or (until_answered and self._is_answered(events)):
                break
        # Answers to what came, such as resets, leave at once if they can.
        if not self.is_closed and self.session.out:
            with suppress(NotRunning):
                self.flush()
        return events

    def _read(self, events: list[Event]) -> bool:
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(_READ, _ANCILLARY, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data, ancillary, flags = b"", [], 0
        fds = _descriptors(ancillary) if ancillary else ()
        if not data:
            self.lose()
            return False
        events += self.session.receive(data, fds, is_cut=bool(flags & _CTRUNC))
        return True

    def _is_answered(self, events: list[Event]) -> bool:
        return len(events) == 1 and type(events[0]) is Answer and not self.session.is_waiting

    def ending(self, connection_id: int, *, is_cut: bool, is_shut: bool) -> str | Ending:
        """How a stream ended whose reader is at the end.

        Args:
            is_cut: the daemon closed its end.
            is_shut: we sent FIN.

        Returns:
            Why it broke, if it did.
        """
        session = self.session
        if (reason := session.failures.get(connection_id)) is not None:
            return reason
        if not is_cut or session.is_disconnected(connection_id):
            return Ending.FIN
        if self.is_forked:
            return Ending.FIN if is_shut else "reset"
        if self.is_lost or (not self.is_closed and is_hung_up(self.socket)):
            return DAEMON_GONE
        if is_shut:
            return Ending.FIN
        # Both directions ended, though we did not finish ours: the stream broke, perhaps after FIN,
        # or the daemon died. A closed session cannot tell.
        return "reset" if self.is_closed else Ending.DOUBT


def closed() -> NotRunning:
    """The error for a session that we closed."""
    return NotRunning("the connection to the daemon is closed", hint="make a new driver")
