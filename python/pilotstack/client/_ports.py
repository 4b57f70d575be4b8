"""Ports that a session of tasks has bound: what arrived there and was not taken yet."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

from pilotstack.client import calls
from pilotstack.client._turns import Waiter
from pilotstack.client._wire import MAX_BACKLOG, MAX_DATAGRAMS, close_after_fork
from pilotstack.types import Datagram

if TYPE_CHECKING:
    from pilotstack.client._session import Accepted, Received
    from pilotstack.client._stream import Stream
    from pilotstack.client._wire import Wire
    from pilotstack.client.calls import Call
    from pilotstack.errors import PilotError
    from pilotstack.types import Address, SocketAddress

T = TypeVar("T")


class PortLink(Protocol):
    """What ports need of the link that they are bound by (``_tasks.TaskLink``)."""

    is_up: bool
    listeners: dict[int, StreamPort]
    datagrams: dict[int, DatagramPort]

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a process that was forked off."""

    async def arrival(self, waiter: Waiter, /) -> None:
        """Returns when the waiter is done."""

    async def request(self, call: Call[T], timeout: float | None = None, /) -> T:
        """Asks, and waits for the answer."""

    async def send(self, frame: bytes, /) -> None:
        """Sends a frame that nothing answers."""

    def stream(
        self,
        wire: Wire,
        fd: int,
        connection_id: int,
        local: SocketAddress,
        remote: SocketAddress,
        /,
    ) -> Stream:
        """A stream that came with a session."""

    async def abort(self, stream: Stream, /) -> None:
        """Resets a stream."""

    def refuse(self, wire: Wire, accepted: Accepted, /) -> None:
        """Resets a stream that nobody takes."""

    def unbind_datagrams(self, number: int, /) -> None:
        """Frees a port without waiting for the answer."""


class Arrivals:
    """Tasks that wait for something to arrive at one port."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[Waiter] = set()

    def add(self) -> Waiter:
        """Another task."""
        waiter = Waiter()
        self._waiters.add(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """A task waits no longer."""
        self._waiters.discard(waiter)

    def wake(self) -> None:
        """Has all tasks look: something arrived, or the port or the session ended."""
        for waiter in self._waiters:
            waiter.done()


class Port(ABC, Generic[T]):
    """A bound port."""

    def __init__(self, link: PortLink) -> None:
        self.link = link
        self.number = 0
        #: Why it could not be bound again after the daemon's restart.
        self.failure: PilotError | None = None
        self.is_closed = False
        self.backlog: deque[T] = deque()
        self._arrivals = Arrivals()

    @abstractmethod
    def binding(self, address: Address) -> Call[int]:
        """Binds it again, for a node that has ``address`` now."""

    def describe(self, what: str) -> str:
        """Its state, for people.

        Args:
            what: of which some may wait.
        """
        state = "closed" if self.is_closed else "failed" if self.failure else "open"
        return state + (f", {len(self.backlog)} {what} wait" if self.backlog else "")

    def wake(self) -> None:
        """Has tasks that wait look: something arrived, or the port or the session changed."""
        self._arrivals.wake()

    def close(self) -> None:
        """Ends the wait of every task."""
        self.is_closed = True
        self.wake()

    async def next(self) -> T:
        """What arrives next; a checkpoint.

        Raises:
            anyio.ClosedResourceError: the port is closed.
            NotRunning: the daemon went away.
        """
        if self.backlog:
            await anyio.lowlevel.checkpoint()
        while True:
            if self.is_closed:
                raise anyio.ClosedResourceError
            if self.backlog:
                return self.backlog.popleft()
            if self.failure is not None:
                raise self.failure
            await self._arrival()

    async def _arrival(self) -> None:
        """Returns when something arrived, or the port or the session changed."""
        waiter = self._arrivals.add()
        try:
            await self.link.arrival(waiter)
        finally:
            self._arrivals.remove(waiter)


class StreamPort(Port[tuple["Wire", "Accepted"]]):
    """A port that streams are dialled to.

    Args:
        address: this node's.
        path: a Unix socket that the daemon connects to instead.
    """

    def __init__(self, link: PortLink, address: Address, path: bytes) -> None:
        super().__init__(link)
        self.address = address
        self.path = path
        close_after_fork(self)

    def _after_fork(self) -> None:
        """Streams that wait are the parent's: copies would keep them open there."""
        while self.backlog:
            os.close(self.backlog.popleft()[1].fd)

    async def bind(self, number: int, backlog: int) -> None:
        """Takes a port, or any that is free for 0."""
        if number:
            # Streams may arrive in one read with the answer.
            self.link.listeners[number] = self
        try:
            self.number = await self.link.request(calls.listen_streams(number, backlog, self.path))
        except BaseException:
            self.link.listeners.pop(number, None)
            self._refuse_all()
            raise
        self.link.listeners[self.number] = self

    def binding(self, address: Address) -> Call[int]:
        """Binds it again, for a node that has ``address`` now."""
        self.address = address
        return calls.listen_streams(self.number, 0, self.path)

    def put(self, wire: Wire, accepted: Accepted) -> bool:
        """Takes a stream; ``False`` if too many wait."""
        if len(self.backlog) >= MAX_BACKLOG:
            return False
        self.backlog.append((wire, accepted))
        self.wake()
        return True

    def free(self) -> None:
        """Resets streams that wait, and takes no more."""
        self.link.listeners.pop(self.number, None)
        if not self.link.is_forked:
            self._refuse_all()

    def _refuse_all(self) -> None:
        while self.backlog:
            wire, accepted = self.backlog.popleft()
            if wire.is_closed:
                os.close(accepted.fd)
            else:
                self.link.refuse(wire, accepted)


class DatagramPort(Port[Datagram]):
    """A port that datagrams are sent to."""

    async def bind(self, number: int) -> None:
        """Takes a port, or any that is free for 0."""
        self.number = await self.link.request(calls.bind_datagrams(number))
        self.link.datagrams[self.number] = self

    def binding(self, address: Address) -> Call[int]:
        """Binds it again."""
        del address
        return calls.bind_datagrams(self.number)

    def put(self, received: Received) -> None:
        """Takes a datagram, or drops it if too many wait."""
        if len(self.backlog) < MAX_DATAGRAMS:
            self.backlog.append(received.datagram)
        self.wake()

    def free(self) -> None:
        """Takes no more."""
        self.link.datagrams.pop(self.number, None)
        self.link.unbind_datagrams(self.number)
