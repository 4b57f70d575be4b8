"""Transports of httpx whose URLs name agents: ``http://agent-b/``.

The host of a URL is a hostname or a node id. Every other part of httpx (pools, redirects, HTTP/2,
TLS) is as ever.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pilotstack.services.adapters._dialling import Dialler, ThreadDialler
from pilotstack.services.adapters._extras import missing

try:
    import httpcore
    import httpx
except ModuleNotFoundError as error:
    raise missing("httpx", error) from error

from pilotstack.services.adapters._httpcore import AsyncBackend, SyncBackend

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

    from pilotstack import sync
    from pilotstack.client import Driver

__all__ = ["AsyncTransport", "Transport"]

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)


@contextmanager
def _told() -> Iterator[None]:
    """Turns an error of httpcore into that of httpx of the same name; its cause is ours."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            found = getattr(httpx, kind.__name__, None)
            if isinstance(found, type) and issubclass(found, httpx.TransportError):
                # Pools of httpcore drop the cause, and leave the context.
                raise found(str(error)) from (error.__cause__ or error.__context__ or error)
        raise


def _request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


class AsyncTransport(httpx.AsyncBaseTransport):
    """For :class:`httpx.AsyncClient`, on asyncio, uvloop and Trio.

    Args:
        driver: dials; it is not closed with this. Unless given, one of its own is opened when it is
            first needed, and again after the daemon restarted.
        socket_path: the daemon for one of its own.
        limits: as of :class:`httpx.AsyncHTTPTransport`.
        http2: try HTTP/2 (the extra ``http2`` of httpx), with TLS.
        ssl_context: for ``https`` URLs. Tunnels are encrypted without that.
        retries: attempts to dial again.
    """

    def __init__(
        self,
        driver: Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        limits: httpx.Limits = _LIMITS,
        http2: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        retries: int = 0,
    ) -> None:
        self._dialler = Dialler(driver, socket_path)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=http2,
            retries=retries,
            network_backend=AsyncBackend(self._dialler),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        with _told():
            response = await self._pool.handle_async_request(_request(request))
        stream: AsyncIterable[bytes] = response.stream  # type: ignore[assignment]
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_AsyncBody(stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes its connections, and a driver of its own."""
        await self._pool.aclose()
        await self._dialler.aclose()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _told():
            yield from self._stream

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class Transport(httpx.BaseTransport):
    """For :class:`httpx.Client`. Arguments as of :class:`AsyncTransport`, with a driver of
    :mod:`pilotstack.sync`."""

    def __init__(
        self,
        driver: sync.Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        limits: httpx.Limits = _LIMITS,
        http2: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        retries: int = 0,
    ) -> None:
        self._dialler = ThreadDialler(driver, socket_path)
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=http2,
            retries=retries,
            network_backend=SyncBackend(self._dialler),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        with _told():
            response = self._pool.handle_request(_request(request))
        stream: Iterable[bytes] = response.stream  # type: ignore[assignment]
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Closes its connections, and a driver of its own."""
        self._pool.close()
        self._dialler.close()
