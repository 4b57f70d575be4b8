"""HTTP for operators and monitors: health, metrics, aggregates. Read only.

Clients on this host see every node and the trust graph in ``/api/stats``, others only aggregates.
Requests that a proxy forwarded, or that a browser sends to a foreign name, do not count as from
this host.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import h11
import msgspec

from pilotstack import _serving, wellknown
from pilotstack.registry.model.source import source_of
from pilotstack.registry.server import statistics
from pilotstack.registry.server.seats import Seat, Seats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from pilotstack.registry.server.statistics import NetworkFigures, Statistics
    from pilotstack.registry.server.view import View

#: Seconds for the head of a request, and for the whole exchange.
HEAD_DEADLINE: Final = 5.0
DEADLINE: Final = 10.0
#: Simultaneous connections. A further one replaces the oldest that is not being answered.
AT_ONCE: Final = 64
#: Bytes of a request's head.
HEAD: Final = 16 << 10
#: Seconds for which aggregates are cached.
FRESH: Final = 5.0
#: Headers by which proxies are recognized.
_FORWARDING: Final = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
_LOCAL_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]", b""})
_READ: Final = 1 << 14
_JSON: Final = "application/json"
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Response:
    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes, content_type: str = _JSON, *, is_shared: bool = False
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = [("access-control-allow-origin", "*")] if is_shared else []


def _json(status: int, value: object, *, is_shared: bool = False) -> _Response:
    return _Response(status, msgspec.json.encode(value), is_shared=is_shared)


class HttpServer:
    """Serves a registry's figures; an async context manager that holds the port.

    Args:
        host: address to listen on.
        port: port to listen on; 0 means any.
        view: the registry.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, view: View) -> None:
        self._host = host
        self._port = port
        self._view = view
        self._seats = Seats(AT_ONCE)
        self._statistics: Statistics | None = None
        self._gathered = 0.0
        self._gathering = anyio.Lock()
        self._routes: dict[str, Callable[[bool], Awaitable[_Response]]] = {
            "/healthz": self._health,
            "/metrics": self._metrics,
            "/api/stats": self._stats,
            "/api/public-stats": self._public_stats,
        }

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
            response = _json(error.error_status_hint, {"error": "not understood"})
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

    async def _respond(self, request: h11.Request, stream: anyio.abc.SocketStream) -> _Response:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return _json(404, {"error": "not found", "paths": sorted(self._routes)})
        if request.method not in (b"GET", b"HEAD"):
            return _json(405, {"error": "only GET"})
        return await route(_is_local(request, stream))

    async def _fresh(self) -> Statistics:
        async with self._gathering:
            now = time.monotonic()
            if self._statistics is None or now - self._gathered > FRESH:
                self._statistics = await statistics.gather(self._view.state)
                self._gathered = now
            return self._statistics

    def _uptime(self) -> int:
        return int(time.monotonic() - self._view.metrics.started)

    async def _health(self, is_local: bool) -> _Response:
        del is_local
        view = self._view
        state, standby = view.state, view.standby
        is_failing, is_replaced = view.is_failing, view.role == "replaced"
        health: dict[str, object] = {
            "status": "store failing" if is_failing else "replaced" if is_replaced else "ok",
            "version": wellknown.VERSION,
            "uptime_seconds": self._uptime(),
            "nodes_online": state.live_nodes - len(state.offline),
            "role": view.role,
            "cluster": view.term.cluster,
            "term": view.term.number,
        }
        if standby is not None:
            problem = {"problem": standby.problem} if standby.problem else {}
            health["replication"] = {"current": standby.is_current, "seq": standby.seq, **problem}
        elif view.publisher.is_enabled:
            health["replication"] = {
                "standbys": view.publisher.standbys,
                "seq": view.publisher.log.seq,
            }
        return _json(503 if is_failing or is_replaced else 200, health)

    async def _metrics(self, is_local: bool) -> _Response:
        del is_local
        view = self._view
        text = view.metrics.render(
            await self._fresh(),
            connections=view.connections,
            held_polls=view.held_polls,
            standbys=view.publisher.standbys,
            is_standby=view.standby is not None,
            term=view.term.number,
        )
        return _Response(200, text, _PROMETHEUS)

    async def _stats(self, is_local: bool) -> _Response:
        figures = await self._fresh()
        stats: dict[str, object] = {
            "total_nodes": figures.total_nodes,
            "active_nodes": figures.active_nodes,
            "total_trust_links": figures.trust_links,
            "total_requests": self._view.metrics.total,
            "unique_tags": figures.unique_tags,
            "task_executors": figures.task_executors,
            "networks": [
                _network(row, is_local=is_local)
                for row in figures.networks
                # Of which strangers hear nothing by other ways, either.
                if is_local or row.join_rule != "invite"
            ],
            "uptime_secs": self._uptime(),
        }
        if is_local:
            stats |= statistics.nodes_and_edges(self._view.state)
        return _json(200, stats, is_shared=not is_local)

    async def _public_stats(self, is_local: bool) -> _Response:
        del is_local
        state, metrics = self._view.state, self._view.metrics
        return _json(
            200,
            {
                "server_time": int(time.time()),
                "uptime_seconds": self._uptime(),
                "active_nodes": state.live_nodes - len(state.offline),
                # Ever registered: ids are not given out twice.
                "total_nodes": len(state.nodes),
                "total_requests": metrics.total,
                "requests_per_sec": round(metrics.rate, 3),
                "components": {"registry": "ok"},
            },
            is_shared=True,
        )


def _network(row: NetworkFigures, *, is_local: bool) -> dict[str, object]:
    found: dict[str, object] = {"id": row.network_id, "name": row.name}
    if is_local or row.join_rule == "open":
        found["members"] = row.members
    if is_local or row.network_id == 0:
        # Of few members it would tell who is there.
        found["online_members"] = row.online
    return found


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
