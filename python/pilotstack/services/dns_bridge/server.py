"""Sockets of the DNS bridge: UDP and TCP on one port (RFC 1035, 4.2; RFC 7766)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.lowlevel

from pilotstack import _events, _serving
from pilotstack.errors import AlreadyExists

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pilotstack.services.dns_bridge.zone import Bridge

__all__ = ["DnsServer"]

log = _events.get_logger(__name__)

#: Queries that are answered at once over UDP, and connections over TCP. Others are dropped.
MAX_QUERIES: Final = 256
MAX_CONNECTIONS: Final = 64
#: Seconds for which a connection may stay silent (RFC 7766, 6.2.3).
IDLE: Final = 10.0
#: Queries on one connection.
MAX_PER_CONNECTION: Final = 1000
#: Attempts to find a port that is free for both.
_ATTEMPTS: Final = 8
_LENGTH_LEN: Final = 2


class DnsServer:
    """Serves a bridge; an async context manager, which binds and closes.

    Args:
        bridge: answers.
        host: an IP address of this host.
        port: 0 means any.
    """

    def __init__(self, bridge: Bridge, host: str, port: int) -> None:
        self._bridge = bridge
        self._host = host
        self._port = port
        self._listening: socket.socket
        self._udp: anyio.abc.UDPSocket
        self._sending = anyio.Lock()
        self._connections = 0
        self._queries = 0

    async def __aenter__(self) -> Self:
        for attempt in range(_ATTEMPTS):
            self._listening = _serving.listen(self._host, self._port)
            port = self._listening.getsockname()[1]
            try:
                self._udp = await anyio.abc.UDPSocket.from_socket(_bound(self._host, port))
            except OSError as error:
                self._listening.close()
                if self._port or attempt == _ATTEMPTS - 1:
                    raise _serving.bind_error("UDP", self._host, port, error) from error
            else:
                self._port = port
                return self
        raise AlreadyExists("no port is free", hint="name one, as in --dns 127.0.0.1:5353")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.close()
        with anyio.CancelScope(shield=True):
            await self._udp.aclose()

    @property
    def address(self) -> tuple[str, int]:
        """Where it is bound."""
        return self._host, self._port

    async def serve(self) -> None:
        """Answers until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serving.accept_forever, self._listening, self._connection)
            tasks.start_soon(self._datagrams, tasks)

    async def _datagrams(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            try:
                data, source = await self._udp.receive()
            except OSError:
                # An answer to somebody who has gone came back.
                await anyio.lowlevel.checkpoint()
                continue
            if self._queries >= MAX_QUERIES:
                self._bridge.dropped["dns_busy"] += 1
                continue
            self._queries += 1
            tasks.start_soon(_serving.contain, "dns", self._datagram, data, source)

    async def _datagram(self, data: bytes, source: tuple[str, int]) -> None:
        try:
            answer = await self._bridge.respond(data, is_datagram=True)
            if answer is not None:
                # One at a time, as anyio demands.
                async with self._sending:
                    await self._udp.sendto(answer, *source)
        except OSError as error:
            log.debug("dns_answer_not_sent", error=str(error))
        finally:
            self._queries -= 1

    async def _connection(self, stream: anyio.abc.SocketStream) -> None:
        if self._connections >= MAX_CONNECTIONS:
            self._bridge.dropped["dns_busy"] += 1
            await anyio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            async with stream:
                await self._queries_of(stream)
        except (TimeoutError, OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            # It has gone, or sends nothing.
            pass
        finally:
            self._connections -= 1

    async def _queries_of(self, stream: anyio.abc.SocketStream) -> None:
        for _ in range(MAX_PER_CONNECTION):
            with anyio.fail_after(IDLE):
                length = int.from_bytes(await _exactly(stream, _LENGTH_LEN))
                data = await _exactly(stream, length)
            answer = await self._bridge.respond(data, is_datagram=False)
            if answer is None:
                return
            with anyio.fail_after(IDLE):
                await stream.send(len(answer).to_bytes(_LENGTH_LEN) + answer)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


async def _exactly(stream: anyio.abc.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data
