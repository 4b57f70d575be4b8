"""Network backends of httpcore that dial agents: what httpx's transports stand on.

They raise httpcore's errors; ours are their causes.
"""

from __future__ import annotations

import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
from anyio.streams.tls import TLSAttribute, TLSStream

from pilotstack.client import PilotAttribute, Stream
from pilotstack.errors import PilotError

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable, Iterator

    from pilotstack import sync
    from pilotstack.services.adapters._dialling import Dialler, ThreadDialler
    from pilotstack.types import SocketAddress


@contextmanager
def _told(late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """Turns our errors into two of httpcore."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error) or "timed out") from error
    except (PilotError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise broken(str(error) or repr(error)) from error


def _pair(address: SocketAddress) -> tuple[str, int]:
    return str(address.address), address.port


def _is_readable(socket: socket.socket) -> bool:
    if socket.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


class AsyncStream(httpcore.AsyncNetworkStream):
    """A stream for httpcore."""

    def __init__(self, stream: Stream | TLSStream, raw: socket.socket) -> None:
        self._stream = stream
        self._raw = raw

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to so many bytes; none at the end."""
        with _told(httpcore.ReadTimeout, httpcore.ReadError), anyio.fail_after(timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Sends all of it."""
        if buffer:
            with _told(httpcore.WriteTimeout, httpcore.WriteError), anyio.fail_after(timeout):
                await self._stream.send(buffer)

    async def aclose(self) -> None:
        """Closes the stream."""
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream:
        """The same with TLS inside of the tunnel."""
        with _told(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            wrapped = await TLSStream.wrap(
                self._stream,
                hostname=server_hostname,
                ssl_context=ssl_context,
                standard_compatible=False,
                server_side=False,
            )
        return AsyncStream(wrapped, self._raw)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: addresses, the socket, whether something can be read."""
        match info:
            case "is_readable":
                return _is_readable(self._raw)
            case "socket":
                return self._raw
            case "server_addr":
                return _pair(self._stream.extra(PilotAttribute.remote_address))
            case "client_addr":
                return _pair(self._stream.extra(PilotAttribute.local_address))
            case "ssl_object":
                return self._stream.extra(TLSAttribute.ssl_object, None)
            case _:
                return None


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """Dials agents where httpcore would dial hosts."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> AsyncStream:
        """A stream to an agent."""
        del local_address, socket_options
        with _told(httpcore.ConnectTimeout, httpcore.ConnectError):
            stream = await self._dialler.dial((host, port), timeout)
        return AsyncStream(stream, stream.extra(anyio.abc.SocketAttribute.raw_socket))

    async def sleep(self, seconds: float) -> None:
        """Waits between attempts."""
        await anyio.sleep(seconds)


class SyncStream(httpcore.NetworkStream):
    """A blocking stream for httpcore."""

    def __init__(self, stream: socket.socket, ends: sync.Stream) -> None:
        self._stream = stream
        # Where TLS took the descriptor, this still knows the addresses.
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to so many bytes; none at the end."""
        with _told(httpcore.ReadTimeout, httpcore.ReadError):
            self._stream.settimeout(timeout)
            return self._stream.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Sends all of it."""
        if buffer:
            with _told(httpcore.WriteTimeout, httpcore.WriteError):
                self._stream.settimeout(timeout)
                self._stream.sendall(buffer)

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SyncStream:
        """The same with TLS inside of the tunnel."""
        with _told(httpcore.ConnectTimeout, httpcore.ConnectError):
            self._stream.settimeout(timeout)
            wrapped = ssl_context.wrap_socket(self._stream, server_hostname=server_hostname)
        return SyncStream(wrapped, self._ends)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: addresses, the socket, whether something can be read."""
        match info:
            case "is_readable":
                return _is_readable(self._stream)
            case "socket":
                return self._stream
            case "server_addr":
                return _pair(self._ends.remote_address)
            case "client_addr":
                return _pair(self._ends.local_address)
            case "ssl_object":
                return self._stream if hasattr(self._stream, "selected_alpn_protocol") else None
            case _:
                return None


class SyncBackend(httpcore.NetworkBackend):
    """Dials agents where httpcore would dial hosts, for threads."""

    def __init__(self, dialler: ThreadDialler) -> None:
        self._dialler = dialler

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> SyncStream:
        """A stream to an agent."""
        del local_address, socket_options
        with _told(httpcore.ConnectTimeout, httpcore.ConnectError):
            stream = self._dialler.dial((host, port), timeout)
        return SyncStream(stream, stream)
