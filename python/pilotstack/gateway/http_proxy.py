"""HTTP as a proxy speaks it: ``CONNECT``, and requests with a whole URL (RFC 9112, section 3.2).

A request with a URL is sent to the agent on a stream of its own, without what belongs to the
connection to the proxy (RFC 9110, section 7.6.1); the connection to the program goes on. Heads are
bounded, and bodies are passed on as they come.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import h11

from pilotstack import wellknown
from pilotstack.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
    Throttled,
    TimedOut,
)
from pilotstack.gateway.targets import target_of
from pilotstack.services.local import LocalStream, close_gently

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pilotstack.client import Stream
    from pilotstack.gateway.mapping import Mapping
    from pilotstack.services.relaying import Carrier, Flow

#: Bytes of a head.
MAX_HEAD: Final = 1 << 16
#: Seconds for a head, and between two requests.
HEAD: Final = 10.0
KEEP_ALIVE: Final = 75.0
#: What belongs to a connection, not to a request or an answer.
_HOP_BY_HOP: Final = frozenset(
    {
        *(b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authorization", b"proxy-authenticate", b"host"),
    }
)
_SWITCHING: Final = 101
_VIA: Final = (b"via", b"1.1 pilot-gateway")
_CLOSE: Final = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]
Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
NextEvent = Callable[[], Awaitable[Event]]


class BadRequest(InvalidArgument):
    """The request cannot be understood."""


class _HalfDone(Exception):
    """A connection broke after an answer had begun."""


class HttpProxy:
    """The requests of one connection.

    Args:
        local: the connection.
        carrier: who reaches agents.
        mapping: whose local IPs count as names of agents.
    """

    def __init__(self, local: LocalStream, carrier: Carrier, mapping: Mapping) -> None:
        self._local = local
        self._carrier = carrier
        self._mapping = mapping
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def serve(self, early: bytes) -> None:
        """Answers requests until one side closes.

        Args:
            early: what was read of the connection already.

        Raises:
            BadRequest: what came is not HTTP; this was answered.
            TimeoutError: a head did not come in time.
        """
        self._http.receive_data(early)
        patience = HEAD
        while True:
            with anyio.fail_after(patience):
                request = await self._next()
            patience = KEEP_ALIVE
            if not isinstance(request, h11.Request):
                return
            if request.method == b"CONNECT":
                await self._tunnel(request)
                return
            try:
                await self._forward(request)
            except PilotError as error:
                await self._refuse(error)
                if isinstance(error, BadRequest):
                    raise
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await close_gently(self._local)
                return
            self._http.start_next_cycle()

    async def _next(self) -> Event:
        """The next event of the program."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                failure = BadRequest(f"not a request: {error}")
                await self._refuse(failure)
                raise failure from error
            if event is not h11.NEED_DATA:
                return event
            try:
                self._http.receive_data(await self._local.receive())
            except anyio.EndOfStream:
                self._http.receive_data(b"")

    async def _tunnel(self, request: h11.Request) -> None:
        host, _, digits = request.target.decode("ascii", "replace").rpartition(":")
        try:
            if not digits.isdecimal() or len(digits) > 5 or not 0 < int(digits) <= 0xFFFF:
                raise BadRequest("CONNECT needs HOST:PORT")
            target = target_of(host, int(digits), self._mapping)
        except PilotError as error:
            await self._refuse(error)
            return
        with anyio.fail_after(HEAD):
            while isinstance(await self._next(), h11.Data):
                pass
        early, _ = self._http.trailing_data

        def answer(error: PilotError | None) -> bytes:
            return _ESTABLISHED if error is None else refusal(error)

        await self._carrier.outward(self._local, target, early=early, answer=answer)

    async def _refuse(self, error: PilotError) -> None:
        try:
            await self._local.send(refusal(error))
            await close_gently(self._local)
        except anyio.BrokenResourceError:
            pass

    async def _forward(self, request: h11.Request) -> None:
        """Sends a request to an agent, and its answer back.

        Raises:
            PilotError: there is no answer, and nothing of one was sent.
        """
        host, port, path = split_url(request.target)
        target = target_of(host, port, self._mapping)
        headers = [(b"host", _authority(host, port)), *passed_on(request.headers), _CLOSE, _VIA]
        async with self._carrier.dialled(self._local.peer, target) as (flow, remote):
            exchange = _Exchange(self._http, self._local, remote, flow)
            head = h11.Request(method=request.method, target=path, headers=headers)
            try:
                with flow.scope:
                    await exchange.run(head, self._next)
            except _HalfDone:
                flow.reason = flow.reason or "reset"
            except PilotError:
                flow.reason = flow.reason or "reset"
                raise
            if flow.reason is not None:
                self._local.reset()


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, program: h11.Connection, local: LocalStream, remote: Stream, flow: Flow
    ) -> None:
        self._program = program
        self._local = local
        self._remote = remote
        self._flow = flow
        self._agent = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._has_begun = False

    async def run(self, head: h11.Request, next_of_program: NextEvent) -> None:
        """Passes both on at once, until the answer is over.

        Raises:
            ConnectionFailed: there is no answer, or it is not HTTP.
            _HalfDone: it broke after it had begun.
        """
        failures: list[Exception] = []

        async def upload() -> None:
            try:
                while isinstance(event := await next_of_program(), h11.Data):
                    await self._to_agent(event)
                if isinstance(event, h11.EndOfMessage):
                    await self._to_agent(event)
            except (PilotError, anyio.BrokenResourceError, h11.LocalProtocolError) as error:
                # The agent may have answered all the same.
                if isinstance(error, BadRequest):
                    failures.append(error)
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            try:
                await self._to_agent(head)
                tasks.start_soon(upload)
                await self._download()
            except (PilotError, anyio.BrokenResourceError, h11.ProtocolError) as error:
                failures.append(error)
            tasks.cancel_scope.cancel()
        if failures:
            if self._has_begun or isinstance(failures[0], BadRequest):
                raise _HalfDone
            raise ConnectionFailed(f"the agent gave no answer: {failures[0]}")

    async def _to_agent(self, event: h11.Event) -> None:
        if data := self._agent.send(event):
            await self._remote.send(data)
            self._flow.sent += len(data)

    async def _to_program(self, event: h11.Event) -> None:
        if data := self._program.send(event):
            self._has_begun = True
            await self._local.send(data)

    async def _download(self) -> None:
        while True:
            event = self._agent.next_event()
            match event:
                case h11.NEED_DATA:
                    try:
                        data = await self._remote.receive()
                    except anyio.EndOfStream:
                        data = b""
                    self._flow.received += len(data)
                    self._agent.receive_data(data)
                case h11.InformationalResponse():
                    if event.status_code == _SWITCHING:
                        raise ConnectionFailed("the agent switched protocols unasked")
                    await self._to_program(event)
                case h11.Response():
                    headers = [*passed_on(event.headers), _VIA]
                    await self._to_program(
                        h11.Response(
                            status_code=event.status_code, headers=headers, reason=event.reason
                        )
                    )
                case h11.Data() | h11.EndOfMessage():
                    await self._to_program(event)
                    if isinstance(event, h11.EndOfMessage):
                        return
                case _:
                    raise ConnectionFailed("the agent closed the stream")


def split_url(target: bytes) -> tuple[str, int, bytes]:
    """Host, port and path of a URL in a request to a proxy.

    Raises:
        BadRequest: it is no URL of HTTP.
    """
    try:
        url = urlsplit(target.decode("ascii"))
        port = url.port
    except ValueError as error:
        raise BadRequest(f"not a URL: {error}") from error
    if url.scheme != "http" or not url.hostname:
        raise BadRequest(
            "a proxy takes URLs that begin with http://, and CONNECT",
            hint="this port is a proxy; set it as such",
        )
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return url.hostname, wellknown.HTTP_PORT if port is None else port, path.encode()


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers without those that belong to one connection."""
    found = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in found
        if name == b"connection"
        for token in value.split(b",")
    }
    # How long the body is belongs to the message, whoever names it; said twice, one of the two is a
    # trap for whoever reads the other (RFC 9112, section 6.3).
    dropped = _HOP_BY_HOP | (named - {b"content-length", b"transfer-encoding"})
    if any(name == b"transfer-encoding" for name, _ in found):
        dropped |= {b"content-length"}
    return [(name, value) for name, value in found if name not in dropped]


def _authority(host: str, port: int) -> bytes:
    name = f"[{host}]" if ":" in host else host
    return (name if port == wellknown.HTTP_PORT else f"{name}:{port}").encode()


def refusal(error: PilotError) -> bytes:
    """An answer that says why there is none of an agent, and ends the connection."""
    match error:
        case TimedOut():
            status, reason = 504, "Gateway Timeout"
        case Throttled():
            status, reason = 503, "Service Unavailable"
        case PermissionDenied():
            status, reason = 403, "Forbidden"
        case InvalidArgument():
            status, reason = 400, "Bad Request"
        case NotFound() | _:
            status, reason = 502, "Bad Gateway"
    text = f"{error}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    body = html.escape(text, quote=False).encode()
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nX-Pilot-Error: {error.code}\r\nConnection: close\r\n\r\n"
    ).encode() + body


_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
