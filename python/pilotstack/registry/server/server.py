"""The registry's TCP server: composes state, store, service, replication and HTTP, and runs a task
per connection.

A failure in one connection ends that connection and nothing else.
"""

from __future__ import annotations

import logging
import os
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from pilotstack import _events, _serving
from pilotstack._resolving import source_of
from pilotstack._seats import Seat, Seats
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.protocol import framing
from pilotstack.registry.replication.herald import Herald
from pilotstack.registry.replication.primary import Publisher
from pilotstack.registry.replication.standby import Standby
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.rules.reaper import reap
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.service import Service
from pilotstack.registry.server.session import (
    UNREAD_TOTAL,
    Flood,
    Memory,
    OutOfMemory,
    Session,
    Watch,
)
from pilotstack.registry.server.view import View
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import OutcomeUnknown
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from prometheus_client.registry import Collector

    from pilotstack.http.server import HttpServer
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.tls import TlsTrust
    from pilotstack.registry.storage.store import Store

log = _events.get_logger(__name__)

#: Seconds for a TLS handshake.
HANDSHAKE: Final = 10.0
#: Interval in seconds of the expiry sweep, and of sweeping the limits.
_REAP_EVERY: Final = 1.0
_SWEEP_EVERY: Final = 60.0
#: Connections that may wait to be accepted.
_BACKLOG: Final = 4096


@dataclass(frozen=True, slots=True)
class Replication:
    """Settings of replication."""

    #: Host and port of the primary to follow; ``None`` on the primary.
    primary: tuple[str, int] | None = None
    #: How the primary is authenticated over TLS; ``None`` for plain TCP.
    trust: TlsTrust | None = None
    #: Secret of standbys; without one, none is served.
    token: str = ""
    #: Serve standbys without a token.
    is_open: bool = False
    #: Become the primary in spite of having been replaced.
    is_promoted: bool = False
    #: File of cluster and term.
    term_path: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of a registry's server."""

    policy: Policy = field(default_factory=lambda: Policy(salt=os.urandom(32)))
    limits: Limits = field(default_factory=Limits)
    replication: Replication = field(default_factory=Replication)
    #: TLS of the registry's port; ``None`` for plain TCP.
    tls: ssl.SSLContext | None = None
    #: Address of the HTTP server, if there is one.
    http: tuple[str, int] | None = None
    #: Receives ids of nodes that have something to fetch and hold no poll.
    notify: Callable[[Iterable[int]], None] | None = None
    #: What else runs in this process, each with a function that tells its problem, if any.
    components: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    #: Its metrics.
    collectors: tuple[Collector, ...] = ()


class RegistryServer:
    """A registry; an async context manager that serves until its exit.

    Args:
        host: address to listen on.
        port: port to listen on; 0 means any.
        store: where the state survives.
        config: everything else.

    Raises:
        InternalError: the store is corrupt.
        OSError: the address cannot be bound.
    """

    def __init__(
        self, host: str, port: int, store: Store, config: ServerConfig | None = None
    ) -> None:
        self._config = config or ServerConfig()
        self._host = host
        self._port = port
        self._store = store
        limits = self._config.limits
        room = _serving.room_for_connections()
        self._seats = Seats(
            min(limits.connections, room) if limits.connections else room,
            limits.connections_per_source,
        )
        self._memory = Memory()
        self._unread = Memory(UNREAD_TOTAL)
        self._standby: Standby | None = None
        self._http: HttpServer | None = None

    async def __aenter__(self) -> RegistryServer:
        config, replication = self._config, self._config.replication
        primary = _serving.join_address(*replication.primary) if replication.primary else ""
        term = replication.term_path
        self.clock = Clock(term.with_suffix(".clock") if term else None)
        state = self._store.load(self.clock.now())
        state.policy = replace(config.policy, is_standby=bool(primary))
        self.term = Term(replication.term_path)
        standing = Standing(self.term, replication.token)
        self._begin_term(replication)
        self.ledger = Ledger(state, self._store)
        self.service = Service(
            self.ledger,
            config.limits,
            primary=primary,
            standing=standing,
            notify=config.notify,
            clock=self.clock,
        )
        if standing.is_replaced:
            state.policy = replace(state.policy, is_standby=True)
        self.publisher = Publisher(
            self.ledger,
            # Who follows a follower would have to know how far that one is.
            token="" if primary else replication.token,
            is_open=replication.is_open and not primary,
            standing=standing,
            clock=self.clock,
        )
        self.ledger.add_sink(self.publisher)
        self._standby = self._follow(replication) if replication.primary else None
        self._view = View(self.service, self.publisher, self._seats, self._standby)
        async with AsyncExitStack() as stack:
            # First, since whoever finds the registry may look at its pages.
            if config.http is not None:
                self._http = await stack.enter_async_context(self._pages(config.http, stack))
            listening = stack.enter_context(_serving.listen(self._host, self._port, _BACKLOG))
            self._stack = stack.pop_all()
        self._listening = listening
        self._watch = Watch()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._start()
        return self

    def _pages(self, address: tuple[str, int], stack: AsyncExitStack) -> HttpServer:
        from pilotstack.http.server import HttpServer
        from pilotstack.observe.recent import Recent
        from pilotstack.registry.server.pages import Pages

        recent = stack.enter_context(Recent())
        pages = Pages(self._view, recent, self._config.components, self._config.collectors)
        return HttpServer(*address, pages.routes)

    def _begin_term(self, replication: Replication) -> None:
        if replication.primary is not None:
            trust = replication.trust
            pins = ",".join(trust.fingerprints) if trust is not None else None
            self.term.follow(_serving.join_address(*replication.primary), pins)
        elif self.term.lead(is_forced=replication.is_promoted):
            log.security("promoted", level=logging.WARNING, term=self.term.number)
        elif self.term.replaced_by:
            log.security(
                "replaced",
                level=logging.CRITICAL,
                term=self.term.number,
                by=self.term.replaced_by,
                hint="start it as a standby of the registry that serves; or, if that one is lost, "
                "with --promote",
            )

    def _start(self) -> None:
        self._run("accept", _serving.accept_forever, self._listening, self._serve)
        self._run("deadlines", self._watch.run)
        self._run("sweep", self._sweep)
        self._run("store_watch", self.ledger.watch)
        if self._http is not None:
            self._run("http", self._http.serve)
        if self._standby is not None:
            self._run("replication", self._standby.run)
            return
        self._run("store", self.ledger.run)
        self._run("reap", self._reap)
        herald = Herald(self.service.standing)
        if herald.has_work:
            self._run("herald", herald.run)

    def _follow(self, replication: Replication) -> Standby:
        assert replication.primary is not None
        return Standby(
            self.ledger,
            replication.primary,
            token=replication.token,
            trust=replication.trust,
            standing=self.service.standing,
            clock=self.clock,
        )

    def _run(self, what: str, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Starts a task that is restarted after failures, until the end."""
        self._tasks.start_soon(_serving.keep_running, what, step, *arguments)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()
                await self.ledger.close()
                self.clock.save()

    @property
    def view(self) -> View:
        """What monitors see."""
        return self._view

    @property
    def state(self) -> State:
        """The registry's state."""
        return self.ledger.state

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        host, port, *_ = self._listening.getsockname()
        return host, port

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of the HTTP server."""
        return self._http.address if self._http is not None else None

    @property
    def standby(self) -> Standby | None:
        """The replication client, on a standby."""
        return self._standby

    @property
    def role(self) -> str:
        """``primary``, ``standby``, or ``replaced`` for a primary that was replaced."""
        return self._view.role

    @property
    def connections(self) -> int:
        """Number of connected clients."""
        return self._view.connections

    async def _reap(self) -> None:
        """Expires silent nodes and stale rows."""
        while True:
            await anyio.sleep(_REAP_EVERY)
            if self.service.standing.is_replaced:
                continue
            changes = reap(self.state, self.clock.now())
            if changes:
                with suppress(OSError):
                    await self.ledger.commit(changes)

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(_SWEEP_EVERY)
            self.service.sweep()
            await anyio.to_thread.run_sync(self.clock.save)
            self.service.settle_term()
            self.service.metrics.tick(_SWEEP_EVERY)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        address = _serving.remote_address(stream)
        if address is None:
            self.service.metrics.dropped("gone")
            await anyio.aclose_forcefully(stream)
            return
        host, port = address
        source, is_local = source_of(host)
        scope = anyio.CancelScope()
        seat = Seat(source, scope.cancel)
        is_exempt = is_local and not self._config.limits.includes_loopback
        if not self._seats.enter(seat, is_exempt=is_exempt):
            self.service.metrics.dropped("seats")
            await anyio.aclose_forcefully(stream)
            return
        try:
            reason = ""
            with scope:
                reason = await self._converse(stream, host, port, seat)
            if scope.cancelled_caught:
                reason = "evicted"
            if reason:
                self.service.metrics.dropped(reason)
                log.debug("connection_dropped", reason=reason, peer=host)
        finally:
            self._seats.leave(seat)
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _converse(
        self, plain: anyio.abc.SocketStream, host: str, port: int, seat: Seat
    ) -> str:
        """Serves a connection to its end; returns why it was cut, or an empty string."""
        try:
            stream: anyio.abc.ByteStream = plain
            if self._config.tls is not None:
                with anyio.fail_after(HANDSHAKE):
                    stream = await TLSStream.wrap(
                        plain, ssl_context=self._config.tls, standard_compatible=False
                    )
            session = Session(
                stream,
                host,
                port,
                service=self.service,
                publisher=self.publisher,
                memory=self._memory,
                unread=self._unread,
                watch=self._watch,
                on_proof=lambda: self._seats.prove(seat),
            )
            await session.run()
        except BaseExceptionGroup as group:
            return _why(_first(group))
        except Exception as error:
            return _why(error)
        return ""


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _why(error: BaseException) -> str:
    """The label of what ended a connection; empty if the client closed it."""
    match error:
        case OutcomeUnknown():
            return "store"
        case framing.ProtocolError():
            return "protocol"
        case TimeoutError():
            return "timeout"
        case Flood():
            return "flood"
        case OutOfMemory():
            return "memory"
        case ssl.SSLError():
            return "tls"
        case OSError() | anyio.EndOfStream() | anyio.BrokenResourceError():
            return ""
        case Exception():
            log.error("connection_failed", exc_info=error)
            return "failure"
    raise error
