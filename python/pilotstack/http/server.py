"""HTTP for operators and monitors. Read only.

Requests that a proxy forwarded, or that a browser sends to a foreign name, do not count as from
this host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import h11
import msgspec

from pilotstack import _serving
from pilotstack.registry.model.source import source_of
from pilotstack.registry.server.seats import Seat, Seats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

#: Seconds for the head of a request, and for the whole exchange.
HEAD_DEADLINE: Final = 5.0
DEADLINE: Final = 10.0
#: Simultaneous connections. A further one replaces the oldest that is not being answered.
AT_ONCE: Final = 64
#: Bytes of a request's head.
HEAD: Final = 16 << 10
#: Headers by which proxies are recognized.
_FORWARDING: Final = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
_LOCAL_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]", b""})
_READ: Final = 1 << 14
_JSON: Final = "application/json"
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


class Response:
    """What is answered.

    Args:
        status: the HTTP status.
        body: its bytes.
        content_type: what they are.
        is_shared: pages of other origins may read it.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes, content_type: str = _JSON, *, is_shared: bool = False
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = [("access-control-allow-origin", "*")] if is_shared else []


def json_response(status: int, value: object, *, is_shared: bool = False) -> Response:
    """A value as JSON."""
    return Response(status, msgspec.json.encode(value), is_shared=is_shared)


def text_response(text: bytes) -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(200, text, _PROMETHEUS)


class HttpServer:
    """Serves pages; an async context manager that holds the port.

    Args:
        host: address to listen on.
        port: port to listen on; 0 means any.
        routes: what answers a path; it is told whether the client is on this host.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self, host: str, port: int, routes: Mapping[str, Callable[[bool], Awaitable[Response]]]
    ) -> None:
        self._host = host
        self._port = port
        self._routes = routes
        self._seats = Seats(AT_ONCE)

    async def __aenter__(self) -> HttpServer:
        self._listening = _serving.listen(self._host, self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._listening.getsockname()
        return host, port

    async def serve(self) -> None:
        """Serves until cancelled."""
        await _serving.accept_forever(self._listening, self._serve)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            address = _serving.remote_address(stream)
            if address is None:
                return
            scope = anyio.CancelScope()
            seat = Seat(source_of(address[0])[0], scope.cancel)
            if not self._seats.enter(seat):
                return
            try:
                with scope, anyio.fail_after(DEADLINE):
                    await self._exchange(stream, seat)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            finally:
                self._seats.leave(seat)

    async def _exchange(self, stream: anyio.abc.SocketStream, seat: Seat) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD)
        method = b"GET"
        try:
            with anyio.fail_after(HEAD_DEADLINE):
                request = await _receive(connection, stream)
            self._seats.prove(seat)
            method = request.method
            response = await self._respond(request, stream)
            # A client that does not read it may be stalling on purpose.
            self._seats.withdraw(seat)
        except h11.RemoteProtocolError as error:
            response = json_response(error.error_status_hint, {"error": "not understood"})
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
            *response.headers,
        ]
        data = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if method != b"HEAD":
            data += connection.send(h11.Data(data=response.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        await stream.send(data)

    async def _respond(self, request: h11.Request, stream: anyio.abc.SocketStream) -> Response:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return json_response(404, {"error": "not found", "paths": sorted(self._routes)})
        if request.method not in (b"GET", b"HEAD"):
            return json_response(405, {"error": "only GET"})
        return await route(_is_local(request, stream))


async def _receive(connection: h11.Connection, stream: anyio.abc.ByteStream) -> h11.Request:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive(_READ))
        else:
            raise anyio.EndOfStream


def _is_local(request: h11.Request, stream: anyio.abc.SocketStream) -> bool:
    peer = _serving.remote_address(stream)
    headers = dict(request.headers)
    host = headers.get(b"host", b"")
    name = host.rpartition(b":")[0] if not host.endswith(b"]") and b":" in host else host
    return (
        peer is not None
        and source_of(peer[0])[1]
        and not _FORWARDING & headers.keys()
        and name.lower() in _LOCAL_NAMES
    )
