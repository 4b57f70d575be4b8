"""What tasks wait on: streams and datagrams that others send to our ports."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from inspect import isawaitable
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack.client import calls
from pilotstack.client._serving import is_remote, report, report_hook, report_remote
from pilotstack.client._stream import PilotAttribute, Stream, is_open
from pilotstack.client._wire import CLOSE
from pilotstack.errors import PilotError
from pilotstack.ipc import frames
from pilotstack.types import Address, Datagram, SocketAddress, Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from pilotstack.client._ports import DatagramPort, StreamPort
    from pilotstack.client._stream import Attributes

    #: Told of a handler's error, and of whose stream; may be async.
    OnError = Callable[[Exception, Stream], object]


class Listener(anyio.abc.Listener[Stream]):
    """Streams that others dial to one of our ports. Made by :meth:`Driver.listen`."""

    _on_close: Callable[[], Awaitable[None]] | None = None

    def __init__(self, port: StreamPort) -> None:
        self._port = port
        #: The port that is listened on.
        self.port = port.number

    def __repr__(self) -> str:
        return f"<Listener {self._address} {self._port.describe('streams')}>"

    @property
    def _address(self) -> SocketAddress:
        return SocketAddress(self._port.address, self._port.number)

    @property
    def extra_attributes(self) -> Attributes:
        """The local address."""
        return {PilotAttribute.local_address: lambda: self._address}

    async def accept(self) -> Stream:
        """The next stream.

        Raises:
            anyio.ClosedResourceError: the listener is closed.
            NotRunning: the daemon went away.
        """
        port = self._port
        wire, accepted = await port.next()
        local = SocketAddress(port.address, accepted.port)
        return port.link.stream(wire, accepted.fd, accepted.connection_id, local, accepted.remote)

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Stream:
        try:
            return await self.accept()
        except anyio.ClosedResourceError as error:
            raise StopAsyncIteration from error

    async def serve(
        self,
        handler: Callable[[Stream], Awaitable[object]],
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
        self,
        handler: Callable[[Stream], Awaitable[object]],
        stream: Stream,
        on_error: OnError | None,
    ) -> None:
        try:
            await handler(stream)
        except Exception as error:
            if is_open(stream):
                # FIN would tell the peer that all is well. The caller may be cancelled meanwhile.
                try:
                    with suppress(PilotError):
                        await self._port.link.abort(stream)
                finally:
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
            if is_remote(error):
                report_remote(error, stream)
            else:
                await _tell(on_error or report, error, stream)

    async def aclose(self) -> None:
        """Frees the port; accepted streams live on, those that wait are reset."""
        port = self._port
        if not port.is_closed:
            port.close()
            port.free()
            if port.link.is_up and not port.link.is_forked:
                with anyio.CancelScope(shield=True), suppress(PilotError):
                    await port.link.request(calls.unbind(port.number), CLOSE)
            if self._on_close is not None:
                await self._on_close()
        await anyio.lowlevel.checkpoint()


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

    def __init__(
        self, port: DatagramPort, resolve: Callable[[Address | str], Awaitable[Address]]
    ) -> None:
        self._port = port
        self._resolve = resolve
        #: The port that is bound.
        self.port = port.number

    def __repr__(self) -> str:
        return f"<DatagramSocket port {self.port} {self._port.describe('datagrams')}>"

    async def receive(self) -> Datagram:
        """The next datagram.

        Raises:
            anyio.ClosedResourceError: the socket is closed.
            NotRunning: the daemon went away.
        """
        return await self._port.next()

    async def send(self, item: Datagram) -> None:
        """Sends ``item.data`` to ``item.source``."""
        await self.send_to(item.data, item.source)

    async def send_to(self, data: bytes, target: Target) -> None:
        """Sends one datagram, which may be lost.

        Args:
            target: as of :meth:`Driver.dial`.

        Raises:
            InvalidArgument: it is empty or too large, or the target is malformed.
        """
        if self._port.is_closed:
            raise anyio.ClosedResourceError
        contents = frames.datagram(data)
        host, port = parse_target(target)
        address = host if isinstance(host, Address) else await self._resolve(host)
        await self._port.link.send(frames.send_from(self.port, address, port, contents))

    async def aclose(self) -> None:
        """Frees the port."""
        if not self._port.is_closed:
            self._port.close()
            self._port.free()
        await anyio.lowlevel.checkpoint()
