"""Reading one socket on behalf of many tasks, without a task of its own.

One of the tasks that wait reads, and marks as done what others wait for. When it has what it wants,
it has the next one read on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    import socket as sockets

T = TypeVar("T")


class Waiter:
    """What a task waits for. Whoever brings it calls :meth:`done`."""

    __slots__ = ("event", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self.event: anyio.Event | None = None

    def done(self) -> None:
        """Ends the wait."""
        self.is_done = True
        if self.event is not None:
            self.event.set()

    async def wait(self) -> None:
        """Returns when this is done, for those whom nothing on the socket concerns."""
        self.event = anyio.Event()
        if not self.is_done:
            await self.event.wait()


class Waiting(Waiter, Generic[T]):
    """A task that waits for a value; there is none if the session ends before."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        super().__init__()
        self.value: T | None = None

    def bring(self, value: T) -> None:
        """Ends the wait."""
        self.value = value
        self.done()


class SharedReader(ABC):
    """Tasks that wait for different things to arrive on one socket."""

    def __init__(self) -> None:
        # Tasks that sleep while another reads, in the order in which they came.
        self._sleepers: dict[Waiter, anyio.Event] = {}
        self._is_reading = False

    @abstractmethod
    def _open(self) -> sockets.socket:
        """The socket.

        Raises:
            NotRunning: it is closed.
        """

    @abstractmethod
    def _pump(self, *, until_answered: bool = False) -> None:
        """Takes what has arrived, without waiting.

        Args:
            until_answered: leave what may have arrived after the only answer that is waited for.
        """

    async def until(self, waiter: Waiter) -> None:
        """Returns when ``waiter`` is done.

        Raises:
            NotRunning: the socket is closed.
        """
        try:
            while not waiter.is_done:
                if self._is_reading:
                    await self._sleep(waiter)
                else:
                    await self._read(self._open())
        finally:
            if self._sleepers and not self._is_reading:
                self._wake_one()

    async def _read(self, socket: sockets.socket) -> None:
        self._is_reading = True
        try:
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(socket)
        finally:
            self._is_reading = False
        self._pump(until_answered=True)

    async def _sleep(self, waiter: Waiter) -> None:
        event = waiter.event = self._sleepers[waiter] = anyio.Event()
        try:
            await event.wait()
        finally:
            waiter.event = None
            self._sleepers.pop(waiter, None)

    def _wake_one(self) -> None:
        """Has the task read on that has slept longest."""
        while self._sleepers:
            waiter, event = next(iter(self._sleepers.items()))
            if not waiter.is_done:
                event.set()
                return
            # It was woken by what it waited for.
            del self._sleepers[waiter]

    def wake_all(self) -> None:
        """Has every task look at the socket anew: it was closed or replaced."""
        for event in list(self._sleepers.values()):
            event.set()

    def _pump_aside(self) -> None:
        """As :meth:`_pump`, for a task that does not wait. What the reader waits for may be taken
        from under it, so it looks again."""
        self._pump()
        if self._is_reading:
            anyio.notify_closing(self._open())
