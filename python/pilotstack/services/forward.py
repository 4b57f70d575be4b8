"""Local ports that lead to agents, and ports of ours that lead to local services.

TCP connections become streams and back, with half-close; UDP datagrams become datagrams and back.
Connections are bounded by :class:`~pilotstack.services.relaying.Relays`, conversations over UDP by
:data:`MAX_FLOWS`; the one that was silent the longest makes room. It must not know what is carried.
"""

from __future__ import annotations

import socket as sockets
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import anyio
import anyio.abc

from pilotstack._serving import bind_error, join_address
from pilotstack.errors import InvalidArgument, NotFound, PilotError
from pilotstack.services.local import accept_forever
from pilotstack.services.relaying import Refused, ignore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable
    from typing import Any

    from pilotstack.client import DatagramSocket, Driver, Listener, Stream
    from pilotstack.services.local import LocalStream
    from pilotstack.services.relaying import Carrier, OnEvent
    from pilotstack.types import Address, SocketAddress

#: Conversations over UDP of one forward.
MAX_FLOWS: Final = 256
#: Seconds of silence after which one ends (RFC 4787, REQ-5).
FLOW_IDLE: Final = 300.0
#: Bytes of a datagram that may arrive; longer ones are dropped when they are sent.
_DATAGRAM: Final = 1 << 16
#: Datagrams taken from a socket before other tasks get a turn.
_BURST: Final = 32


async def forward_streams(
    listening: sockets.socket, target: tuple[Address | str, int], carrier: Carrier
) -> None:
    """Carries each connection to a listening TCP socket to an agent, until cancelled."""

    async def handle(local: LocalStream) -> None:
        await carrier.outward(local, target)

    await accept_forever(listening, handle)


async def expose_streams(listener: Listener, host: str, port: int, carrier: Carrier) -> None:
    """Carries each stream to one of our ports to a local TCP service, until cancelled.

    Raises:
        NotRunning: the daemon went away.
    """

    async def handle(remote: Stream) -> None:
        await carrier.inward(remote, host, port)

    await listener.serve(handle)


class Conversation(Protocol):
    """What stands for one side of a conversation over UDP."""

    async def send(self, data: bytes) -> None:
        """Sends a datagram on."""

    async def receive(self) -> bytes:
        """The next datagram that came back."""

    async def aclose(self) -> None:
        """Ends it."""


K = TypeVar("K", bound="Hashable")


class Conversations(Generic[K]):
    """Conversations by who began them.

    Args:
        tasks: where answers are awaited.
        begin: makes one for somebody.
        back: sends an answer to somebody.
        limit: how many there may be.
        idle: seconds of silence after which one ends.
    """

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        begin: Callable[[K], Awaitable[Conversation]],
        back: Callable[[bytes, K], Awaitable[object]],
        *,
        limit: int = MAX_FLOWS,
        idle: float = FLOW_IDLE,
    ) -> None:
        self._tasks = tasks
        self._begin = begin
        self._back = back
        self._limit = limit
        self._idle = idle
        self._open: OrderedDict[K, tuple[Conversation, anyio.CancelScope]] = OrderedDict()
        #: Datagrams that were dropped, by reason.
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    async def put(self, data: bytes, source: K) -> None:
        """Sends a datagram of somebody on; drops it if that is impossible.

        Raises:
            PilotError: there is no way to send any.
        """
        found = self._open.get(source)
        if found is None:
            found = await self._make(source)
        conversation, scope = found
        self._open.move_to_end(source)
        scope.deadline = anyio.current_time() + self._idle
        try:
            await conversation.send(data)
        except InvalidArgument:
            # Empty, or longer than the overlay takes.
            self.dropped["size"] += 1
        except PilotError:
            raise
        except OSError:
            # Nobody listens there, or its buffer is full.
            self.dropped["unsent"] += 1

    async def _make(self, source: K) -> tuple[Conversation, anyio.CancelScope]:
        if len(self._open) >= self._limit:
            _, (_, oldest) = self._open.popitem(last=False)
            oldest.cancel()
            self.dropped["evicted"] += 1
        made = await self._begin(source), anyio.CancelScope()
        self._open[source] = made
        self._tasks.start_soon(self._answer, source, *made)
        return made

    async def _answer(
        self, source: K, conversation: Conversation, scope: anyio.CancelScope
    ) -> None:
        try:
            with scope:
                while True:
                    try:
                        data = await conversation.receive()
                        await self._back(data, source)
                        scope.deadline = anyio.current_time() + self._idle
                    except InvalidArgument:
                        self.dropped["size"] += 1
                    except ConnectionRefusedError:
                        # The local service is not there, or not yet.
                        self.dropped["refused"] += 1
                    except (OSError, anyio.ClosedResourceError):
                        break
        finally:
            if self._open.get(source, (None, None))[1] is scope:
                del self._open[source]
            with anyio.CancelScope(shield=True):
                await conversation.aclose()


class _Overlay:
    """A conversation of a local program with an agent: a port of ours."""

    def __init__(self, bound: DatagramSocket, target: SocketAddress) -> None:
        self._bound = bound
        self._target = target

    async def send(self, data: bytes) -> None:
        await self._bound.send_to(data, self._target)

    async def receive(self) -> bytes:
        while True:
            datagram = await self._bound.receive()
            if datagram.source == self._target:
                return datagram.data

    async def aclose(self) -> None:
        await self._bound.aclose()


async def forward_datagrams(
    bound: sockets.socket, target: SocketAddress, driver: Driver, on_event: OnEvent = ignore
) -> None:
    """Carries datagrams to a bound UDP socket to an agent, and its answers back, until cancelled.

    Raises:
        NotRunning: the daemon went away.
    """

    async def begin(source: tuple[Any, ...]) -> Conversation:
        del source
        return _Overlay(await driver.datagram(), target)

    async def back(data: bytes, source: tuple[Any, ...]) -> None:
        with suppress(BlockingIOError):
            bound.sendto(data, source)

    async with anyio.create_task_group() as tasks:
        open_ones = Conversations(tasks, begin, back)
        while True:
            await anyio.wait_readable(bound)
            for _ in range(_BURST):
                try:
                    data, source = bound.recvfrom(_DATAGRAM)
                except BlockingIOError:
                    break
                except OSError:
                    # A datagram that was sent before did not arrive.
                    continue
                try:
                    await open_ones.put(data, source)
                except PilotError as error:
                    peer = join_address(*source[:2])
                    on_event(Refused(peer, str(target), error.code, str(error)))


class _Local:
    """A conversation of an agent with a local service: a UDP socket that is connected to it."""

    def __init__(self, socket: sockets.socket) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        self._socket.send(data)

    async def receive(self) -> bytes:
        while True:
            await anyio.wait_readable(self._socket)
            with suppress(BlockingIOError):
                return self._socket.recv(_DATAGRAM)

    async def aclose(self) -> None:
        anyio.notify_closing(self._socket)
        self._socket.close()


async def expose_datagrams(
    bound: DatagramSocket, host: str, port: int, on_event: OnEvent = ignore
) -> None:
    """Carries datagrams to one of our ports to a local UDP service, and its answers back, until
    cancelled.

    Raises:
        NotRunning: the daemon went away.
        NotFound: the name of the service has no address.
    """
    family, address = await resolve(host, port)

    async def begin(source: SocketAddress) -> Conversation:
        try:
            socket = sockets.socket(family, sockets.SOCK_DGRAM)
        except OSError as error:
            reason = f"no socket for it: {error.strerror}"
            on_event(Refused(str(source), join_address(host, port), "unavailable", reason))
            raise
        socket.setblocking(False)
        socket.connect(address)
        return _Local(socket)

    async with anyio.create_task_group() as tasks:
        open_ones = Conversations(tasks, begin, bound.send_to)
        while True:
            datagram = await bound.receive()
            with suppress(OSError):
                await open_ones.put(datagram.data, datagram.source)


async def resolve(host: str, port: int) -> tuple[sockets.AddressFamily, tuple[Any, ...]]:
    """The first address of a UDP service.

    Raises:
        NotFound: it has none.
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=sockets.SOCK_DGRAM)
    except OSError as error:
        raise NotFound(
            f"no such host: {host}",
            hint="this end is of the local network: agents are at the other",
        ) from error
    family, _, _, _, address = found[0]
    return family, address


def bind_datagrams(host: str, port: int) -> sockets.socket:
    """A UDP socket on an address of this host; port 0 means any.

    Raises:
        OSError: the address cannot be bound.
    """
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    bound = sockets.socket(family, sockets.SOCK_DGRAM)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise bind_error("UDP", host, port, error) from error
    bound.setblocking(False)
    return bound
