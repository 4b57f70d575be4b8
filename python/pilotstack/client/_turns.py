"""Reading one socket on behalf of many tasks, without a task of its own: whoever waits reads, and
whoever stops reading wakes the others, one of whom reads on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import socket as sockets


class SharedReader(ABC):
    """Tasks that wait for different things to arrive on one socket."""

    def __init__(self) -> None:
        self._sleepers: deque[anyio.Event] = deque()
        self._is_reading = False
        self._reader: anyio.CancelScope | None = None

    @abstractmethod
    def _open(self) -> sockets.socket:
        """The socket.

        Raises:
            NotRunning: it is closed.
        """

    @abstractmethod
    def _pump(self) -> None:
        """Takes what has arrived, without waiting."""

    async def _wait(self, event: anyio.Event) -> None:
        """Returns when ``event`` is set or something arrived."""
        if event.is_set():
            return
        if self._is_reading:
            self._sleepers.append(event)
            try:
                await event.wait()
            finally:
                with suppress(ValueError):
                    self._sleepers.remove(event)
            return
        self._is_reading = True
        try:
            socket = self._open()
            with anyio.CancelScope() as self._reader, suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(socket)
            self._pump()
        finally:
            self._is_reading = False
            self._reader = None
            self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        """One of those who wait reads next; which one is found out by waking them."""
        while self._sleepers:
            self._sleepers.popleft().set()

    def _pump_aside(self) -> None:
        """As :meth:`_pump`, for a task that is not waiting: what the reader waits for may be taken
        from under it, so it has to look again."""
        self._pump()
        if self._reader is not None:
            self._reader.cancel()
