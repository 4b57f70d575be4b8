"""What a driver waits on: streams and datagrams that others send to our ports."""

from __future__ import annotations

import os
from collections import deque
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack.client import _frames as f
from pilotstack.client._stream import PilotAttribute, Stream
from pilotstack.client.framed import FramedLink, FramedStream
from pilotstack.errors import InvalidArgument, PilotError
from pilotstack.types import Address, Datagram, SocketAddress, parse_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from pilotstack.client._session import Accepted
    from pilotstack.client.aio import Driver

Target = str | SocketAddress | tuple[Address, int]

#: Datagrams kept for a socket that nobody reads; later ones are dropped, as a network would.
_MAX_DATAGRAMS = 1024
_MAX_DATAGRAM = 65_435


class Listener(anyio.abc.Listener[Stream]):
    """Streams that others dial to one of our ports. Made by :meth:`Driver.listen`."""

    def __init__(self, driver: Driver, address: Address) -> None:
        self._driver = driver
        self._address = address
        self._backlog: deque[Accepted] = deque()
        self._event = anyio.Event()
        self._is_closed = False
        self._on_close: Callable[[], Awaitable[None]] | None = None
        #: The port that is listened on.
        self.port = 0

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The local address."""
        return {PilotAttribute.local_address: lambda: SocketAddress(self._address, self.port)}

    def _put(self, accepted: Accepted) -> None:
        self._backlog.append(accepted)
        self._event.set()

    def _wake(self) -> None:
        self._event.set()

    async def accept(self) -> Stream:
        """The next stream.

        Raises:
            anyio.ClosedResourceError: the listener is closed.
            NotRunning: the daemon went away.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._backlog:
            if self._is_closed:
                raise anyio.ClosedResourceError
            self._driver._open()
            self._event = anyio.Event()
            await self._driver._wait(self._event)
        accepted = self._backlog.popleft()
        local = SocketAddress(self._address, accepted.port)
        return self._driver._stream(accepted.fd, accepted.connection_id, local, accepted.remote)

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Stream:
        try:
            return await self.accept()
        except anyio.ClosedResourceError as error:
            raise StopAsyncIteration from error

    async def serve(
        self, handler: Callable[[Stream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Runs ``handler`` for each stream in a task of its own, until cancelled or closed."""
        async with AsyncExitStack() as stack:
            if task_group is None:
                task_group = await stack.enter_async_context(anyio.create_task_group())
            async for stream in self:
                task_group.start_soon(handler, stream)

    async def aclose(self) -> None:
        """Frees the port; accepted streams live on."""
        if self._is_closed:
            return
        self._is_closed = True
        driver = self._driver
        driver._listeners.pop(self.port, None)
        while self._backlog:
            os.close(self._backlog.popleft().fd)
        self._event.set()
        if driver._socket is not None:
            request_id = driver._session.new_id()
            body = bytes((f.UNBIND,)) + f.u16(self.port)
            with anyio.CancelScope(shield=True), suppress(PilotError):
                await driver._request(request_id, f.frame(f.REQUEST, f.u32(request_id), body))
        if self._on_close is not None:
            await self._on_close()


class DatagramSocket(anyio.abc.UnreliableObjectStream[Datagram]):
    """Datagrams on one port. ``send`` takes a :class:`Datagram` whose source is the destination;
    :meth:`send_to` says it plainly."""

    def __init__(self, driver: Driver, port: int) -> None:
        self._driver = driver
        self._backlog: deque[Datagram] = deque()
        self._event = anyio.Event()
        self._is_closed = False
        self.port = port

    def _put(self, datagram: Datagram) -> None:
        if len(self._backlog) < _MAX_DATAGRAMS:
            self._backlog.append(datagram)
        self._event.set()

    def _wake(self) -> None:
        self._event.set()

    async def receive(self) -> Datagram:
        """The next datagram."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._backlog:
            if self._is_closed:
                raise anyio.ClosedResourceError
            self._driver._open()
            self._event = anyio.Event()
            await self._driver._wait(self._event)
        return self._backlog.popleft()

    async def send(self, item: Datagram) -> None:
        """Sends ``item.data`` to ``item.source``."""
        await self.send_to(item.data, item.source)

    async def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost.

        Raises:
            InvalidArgument: it is empty or too large.
        """
        if self._is_closed:
            raise anyio.ClosedResourceError
        if not 0 < len(data) <= _MAX_DATAGRAM:
            raise InvalidArgument(f"a datagram has 1 to {_MAX_DATAGRAM} octets, not {len(data)}")
        host, port = parse_target(target)
        address = await self._driver._address(host)
        endpoint = f.endpoint(address, port)
        await self._driver._send(f.frame(f.SEND_FROM, f.u16(self.port), endpoint, data))

    async def aclose(self) -> None:
        """Frees the port."""
        if not self._is_closed:
            self._is_closed = True
            self._driver._datagrams.pop(self.port, None)
            self._event.set()
            self._driver._send_now(f.frame(f.UNBIND_DATAGRAMS, f.u16(self.port)))
        await anyio.lowlevel.checkpoint()


class FramedListener(Listener):
    """A listener of the framed dialect, on a socket of its own."""

    def __init__(self, driver: Driver, link: FramedLink, port: int, address: Address) -> None:
        super().__init__(driver, address)
        self._link = link
        self.port = port

    @classmethod
    async def make(cls, driver: Driver, port: int) -> FramedListener:
        """Binds the port."""
        address = await driver._own_address()
        link = FramedLink(driver._path)
        try:
            await link.request(f.frame(f.BIND, f.u16(port)))
        except BaseException:
            link.close()
            raise
        return cls(driver, link, port, address)

    async def accept(self) -> Stream:
        """The next stream."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        link = self._link
        while not link.accepted:
            if self._is_closed:
                raise anyio.ClosedResourceError
            link.accepting = anyio.Event()
            await link.wait(link.accepting)
        connection_id, remote = link.accepted.popleft()
        local = SocketAddress(self._address, self.port)
        return FramedStream(link, connection_id, local, remote, owns_link=False)

    async def aclose(self) -> None:
        """Frees the port, and ends its streams: they share its socket."""
        self._is_closed = True
        self._link.close()
        await anyio.lowlevel.checkpoint()
