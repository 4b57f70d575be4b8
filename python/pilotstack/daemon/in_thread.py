"""Where a daemon in a thread takes the drivers of its process: socket pairs, without a path."""

from __future__ import annotations

import os
import socket as sockets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pilotstack.client import InProcess
from pilotstack.errors import ForkedDriver, NotRunning, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack._core import Core


class InThread(InProcess):
    """The drivers' way to a core of this process. Any thread may use it."""

    def __init__(self) -> None:
        self._core: Core | None = None
        self._process = os.getpid()

    def __str__(self) -> str:
        return "this process"

    @contextmanager
    def serving(self, core: Core) -> Iterator[None]:
        """Drivers reach the core as long as this is entered."""
        self._core = core
        try:
            yield
        finally:
            self._core = None

    def attach(self) -> sockets.socket:
        """A driver's end of a socket pair; it does not block.

        Raises:
            NotRunning: the daemon does not run.
            ForkedDriver: it is the parent process's.
            Unavailable: this process may open no more files.
        """
        if os.getpid() != self._process:
            raise ForkedDriver(
                "this node was made before a fork, by another process",
                hint="make a node in each process, after the fork",
            )
        core = self._core
        if core is None:
            raise NotRunning("the node has ended", hint="enter it anew")
        try:
            ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_STREAM)
        except OSError as error:
            raise _too_many_files() from error
        with theirs:
            try:
                ours.setblocking(False)
                core.attach(theirs.fileno())
            except OSError as error:
                ours.close()
                raise _too_many_files() from error
        return ours


def _too_many_files() -> Unavailable:
    return Unavailable(
        "this process may open no more files", hint="raise the limit of open files (ulimit -n)"
    )
