"""A small HTTP server for operators and monitors. Read only.

Whoever stalls, at whatever place of an exchange, makes room for others: silent connections and
those that do not read their answer are the first to be replaced by new ones.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import h11

from pilotstack import _serving
from pilotstack._resolving import source_of
from pilotstack._seats import Seat, Seats
from pilotstack.http.messages import Events, Request, Response, json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

#: Seconds for the head of a request, and for the whole exchange.
HEAD_DEADLINE: Final = 5.0
DEADLINE: Final = 10.0
#: Simultaneous connections. A further one replaces the oldest that is not being answered.
AT_ONCE: Final = 64
#: Streams of events among them. A further one replaces the oldest without a token.
STREAMS: Final = 16
#: Bytes of a request's head.
HEAD: Final = 16 << 10
_READ: Final = 1 << 14


class HttpServer:
    """Serves pages; an async context manager that holds the port.

    Args:
        host: address to listen on.
        port: port to listen on; 0 means any.
        routes: what answers each path.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Callable[[Request], Awaitable[Response]]],
    ) -> None:
        self._host = host
        self._port = port
        self._routes = routes
        self._seats = Seats(AT_ONCE)
        self._streams = Seats(STREAMS)

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
            source, is_here = source_of(address[0])
            scope = anyio.CancelScope()
            seat = Seat(source, scope.cancel)
            if not self._seats.enter(seat):
                return
            try:
                with scope:
                    exchange = _Exchange(stream)
                    with anyio.fail_after(DEADLINE):
                        response = await self._respond(exchange, seat, (address[0], is_here))
                    if isinstance(response, Events):
                        self._seats.prove(seat)
                        await self._stream(exchange, response, seat.source)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            finally:
                self._seats.leave(seat)

    async def _respond(self, exchange: _Exchange, seat: Seat, client: tuple[str, bool]) -> Response:
        """Reads a request and sends the answer, or the head of a stream of events."""
        try:
            with anyio.fail_after(HEAD_DEADLINE):
                request = await exchange.receive(*client)
            self._seats.prove(seat)
            response = await self._answer(request)
            # A client that does not read it may be stalling on purpose.
            self._seats.withdraw(seat)
        except h11.RemoteProtocolError as error:
            response = json_response(error.error_status_hint, {"error": "not understood"})
        await exchange.send(response)
        return response

    async def _answer(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            return json_response(404, {"error": "not found", "paths": sorted(self._routes)})
        if request.method not in ("GET", "HEAD"):
            return json_response(405, {"error": "only GET"})
        return await route(request)

    async def _stream(self, exchange: _Exchange, response: Events, source: str) -> None:
        with anyio.CancelScope() as scope:
            seat = Seat(source, scope.cancel)
            if exchange.is_head or not self._streams.enter(seat):
                return
            if response.is_proven:
                self._streams.prove(seat)
            try:
                async with aclosing(response.source) as events:
                    async for data in events:
                        with anyio.fail_after(DEADLINE):
                            await exchange.send_more(data)
            finally:
                self._streams.leave(seat)


class _Exchange:
    """One request and its answer.

    Args:
        stream: the connection.
    """

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD)
        self.is_head = False

    async def receive(self, address: str, is_here: bool) -> Request:
        """The request; what follows its head is not read.

        Args:
            address: of the client.
            is_here: whether that is this host.

        Raises:
            h11.RemoteProtocolError: it is malformed or too long.
        """
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                break
            if event is not h11.NEED_DATA:
                raise anyio.EndOfStream
            self._connection.receive_data(await self._stream.receive(_READ))
        self.is_head = event.method == b"HEAD"
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers]
        path, _, query = event.target.decode("ascii", "replace").partition("?")
        return Request(
            method=event.method.decode("ascii"),
            path=path,
            query=query,
            headers=dict(headers),
            address=address,
            is_from_here=is_here,
        )

    async def send(self, response: Response) -> None:
        """Sends a response; of a stream of events, the head."""
        is_endless = isinstance(response, Events)
        length = [] if is_endless else [("content-length", str(len(response.body)))]
        headers = [
            ("content-type", response.content_type),
            *length,
            ("connection", "close"),
            *response.headers.items(),
        ]
        data = self._data(h11.Response(status_code=response.status, headers=headers))
        if not is_endless:
            if not self.is_head:
                data += self._data(h11.Data(data=response.body))
            data += self._data(h11.EndOfMessage())
        await self._stream.send(data)

    async def send_more(self, data: bytes) -> None:
        """Sends a part of the body."""
        await self._stream.send(self._data(h11.Data(data=data)))

    def _data(self, event: h11.Event) -> bytes:
        return self._connection.send(event) or b""
