"""What a driver waits on: streams and datagrams that others send to our ports."""

from __future__ import annotations

import os
from collections import deque
from contextlib import AsyncExitStack, suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack.client import _frames as f
from pilotstack.client._serving import is_remote, report, report_hook, report_remote
from pilotstack.client._stream import PilotAttribute, Stream
from pilotstack.client._wire import CLOSE, close_after_fork
from pilotstack.client.framed import MAX_BACKLOG, FramedLink, FramedStream
from pilotstack.errors import PilotError
from pilotstack.types import Address, Datagram, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from pilotstack.client._session import Accepted
    from pilotstack.client._wire import Wire
    from pilotstack.client.aio import Driver

    #: Told of a handler's error, and of whose stream; may be async.
    OnError = Callable[[Exception, Stream], Any]

#: Datagrams kept for a socket that nobody reads; later ones are dropped, as a network would.
MAX_DATAGRAMS = 1024


class Listener(anyio.abc.Listener[Stream]):
    """Streams that others dial to one of our ports. Made by :meth:`Driver.listen`."""

    def __init__(self, driver: Driver, address: Address, path: bytes = b"") -> None:
        self._driver = driver
        self._address = address
        self._path = path
        self._backlog: deque[tuple[Wire | None, Accepted]] = deque()
        self._event = anyio.Event()
        self._is_closed = False
        self._failure: PilotError | None = None
        self._on_close: Callable[[], Awaitable[None]] | None = None
        #: The port that is listened on.
        self.port = 0
        close_after_fork(self)

    def _after_fork(self) -> None:
        """Streams that wait are the parent's: copies would keep them open there."""
        while self._backlog:
            os.close(self._backlog.popleft()[1].fd)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "failed" if self._failure else "open"
        waiting = f", {len(self._backlog)} streams wait" if self._backlog else ""
        return f"<Listener {SocketAddress(self._address, self.port)} {state}{waiting}>"

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The local address."""
        return {PilotAttribute.local_address: lambda: SocketAddress(self._address, self.port)}

    def _put(self, accepted: Accepted) -> bool:
        """Takes a stream; ``False`` if too many wait."""
        if len(self._backlog) >= MAX_BACKLOG:
            return False
        self._backlog.append((self._driver._wire, accepted))
        self._event.set()
        return True

    def _refuse_all(self) -> None:
        while self._backlog:
            wire, accepted = self._backlog.popleft()
            if wire is None or wire.is_closed:
                os.close(accepted.fd)
            else:
                wire.session.refuse(accepted)
                self._driver._send_now(wire)

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
            if self._failure is not None:
                raise self._failure
            self._event = anyio.Event()
            await self._driver._idle(self._event)
        wire, accepted = self._backlog.popleft()
        assert wire is not None
        local = SocketAddress(self._address, accepted.port)
        return self._driver._stream(
            wire, accepted.fd, accepted.connection_id, local, accepted.remote
        )

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Stream:
        try:
            return await self.accept()
        except anyio.ClosedResourceError as error:
            raise StopAsyncIteration from error

    async def serve(
        self,
        handler: Callable[[Stream], Any],
        task_group: TaskGroup | None = None,
        *,
        on_error: OnError | None = None,
    ) -> None:
        """Runs ``handler`` for each stream in a task of its own, until cancelled or closed.

        The error of one handler ends neither the server nor other handlers. If its stream is still
        open, it is reset. What the peer caused, such as :exc:`StreamBroken`, is expected and logged
        for debugging only.

        Args:
            task_group: where handlers run, if not in one that ends with this call.
            on_error: called with the error and the stream when a handler fails otherwise, plain or
                async; unless given, the logger ``pilotstack`` gets the traceback.

        Raises:
            NotRunning: the daemon went away.
        """
        failure: PilotError | None = None
        async with AsyncExitStack() as stack:
            tasks = task_group
            if tasks is None:
                tasks = await stack.enter_async_context(anyio.create_task_group())
            try:
                async for stream in self:
                    tasks.start_soon(self._handle, handler, stream, on_error)
            except PilotError as error:
                failure = error
                if task_group is None:
                    tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _handle(
        self, handler: Callable[[Stream], Any], stream: Stream, on_error: OnError | None
    ) -> None:
        try:
            await handler(stream)
        except Exception as error:
            if stream._socket is not None:
                # FIN would tell the peer that all is well.
                with suppress(PilotError):
                    await self._driver.abort(stream)
                await stream.aclose()
            if is_remote(error):
                report_remote(error, stream)
            else:
                await _tell(on_error or report, error, stream)

    async def aclose(self) -> None:
        """Frees the port; accepted streams live on, those that wait are reset."""
        if self._is_closed:
            return
        self._is_closed = True
        driver = self._driver
        driver._listeners.pop(self.port, None)
        self._event.set()
        wire = driver._wire
        if wire is None or not wire.is_forked:
            self._refuse_all()
            if driver._is_up:
                body = bytes((f.UNBIND,)) + f.u16(self.port)
                with anyio.CancelScope(shield=True), suppress(PilotError):
                    await driver._request(f.REQUEST, body, timeout=CLOSE)
        if self._on_close is not None:
            await self._on_close()


async def _tell(hook: OnError, error: Exception, stream: Stream) -> None:
    try:
        result = hook(error, stream)
        if isawaitable(result):
            await result
    except Exception as failure:
        report(error, stream)
        report_hook(failure)


class DatagramSocket(anyio.abc.UnreliableObjectStream[Datagram]):
    """Datagrams on one port. ``send`` takes a :class:`Datagram` whose source is the destination;
    :meth:`send_to` says it plainly."""

    def __init__(self, driver: Driver, port: int) -> None:
        self._driver = driver
        self._backlog: deque[Datagram] = deque()
        self._event = anyio.Event()
        self._is_closed = False
        self._failure: PilotError | None = None
        self.port = port

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "failed" if self._failure else "open"
        waiting = f", {len(self._backlog)} datagrams wait" if self._backlog else ""
        return f"<DatagramSocket port {self.port} {state}{waiting}>"

    def _put(self, datagram: Datagram) -> None:
        if len(self._backlog) < MAX_DATAGRAMS:
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
            if self._failure is not None:
                raise self._failure
            self._event = anyio.Event()
            await self._driver._idle(self._event)
        return self._backlog.popleft()

    async def send(self, item: Datagram) -> None:
        """Sends ``item.data`` to ``item.source``."""
        await self.send_to(item.data, item.source)

    async def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost.

        Args:
            target: as of :meth:`Driver.dial`.

        Raises:
            InvalidArgument: it is empty or too large, or the target makes no sense.
        """
        if self._is_closed:
            raise anyio.ClosedResourceError
        contents = f.payload(data, f.MAX_DATAGRAM)
        host, port = parse_target(target)
        endpoint = f.endpoint(await self._driver._address(host), port)
        await self._driver._send(f.frame(f.SEND_FROM, f.u16(self.port), endpoint, contents))

    async def aclose(self) -> None:
        """Frees the port."""
        if not self._is_closed:
            self._is_closed = True
            self._driver._datagrams.pop(self.port, None)
            self._event.set()
            wire = self._driver._wire
            if wire is not None and not wire.is_closed and not wire.is_forked:
                wire.session.out.put(f.frame(f.UNBIND_DATAGRAMS, f.u16(self.port)))
                self._driver._send_now(wire)
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
        link = await FramedLink.open(driver._path)
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
