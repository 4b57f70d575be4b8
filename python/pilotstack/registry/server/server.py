"""The registry's TCP server: composes the state, its store, the service, replication and HTTP, and
gives every connection a task of its own.

Whatever goes wrong in one connection ends that connection and nothing else.
"""

from __future__ import annotations

import os
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from pilotstack import _events, _serving
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import source_of
from pilotstack.registry.protocol import framing
from pilotstack.registry.replication.herald import Herald
from pilotstack.registry.replication.primary import Publisher
from pilotstack.registry.replication.standby import Standby
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.rules.reaper import reap
from pilotstack.registry.server.http import HttpServer
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.seats import Places, Seat
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
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.tls import Trust
    from pilotstack.registry.storage.store import Store

log = _events.get_logger(__name__)

#: Seconds for a TLS handshake.
HANDSHAKE: Final = 10.0
#: Seconds between two looks at what time is over for, and between sweeps of the limits.
_REAP_EVERY: Final = 1.0
_SWEEP_EVERY: Final = 60.0
#: Connections that may wait to be accepted.
_BACKLOG: Final = 4096


@dataclass(frozen=True, slots=True)
class Replication:
    """How this registry and others keep the same state."""

    #: Host and port of the primary that this one follows; without, it is the primary.
    primary: tuple[str, int] | None = None
    #: How the primary is recognized over TLS; plain TCP without.
    trust: Trust | None = None
    #: What a standby shows; without one nobody may follow.
    token: str = ""
    #: Standbys are served without a token.
    is_open: bool = False
    #: It becomes the primary although it was replaced.
    is_promoted: bool = False
    #: Where the term is kept.
    term_path: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of a registry's server."""

    policy: Policy = field(default_factory=lambda: Policy(salt=os.urandom(32)))
    limits: Limits = field(default_factory=Limits)
    replication: Replication = field(default_factory=Replication)
    #: TLS of the registry's port; plain TCP without.
    tls: ssl.SSLContext | None = None
    #: Where HTTP is served, if it is.
    http: tuple[str, int] | None = None
    #: Told of nodes that something waits for and that do not hold a poll.
    notify: Callable[[Iterable[int]], None] | None = None


class RegistryServer:
    """Listens and serves; use as an async context manager around its life.

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
        self._places = Places(
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
        self._view = View(self.service, self.publisher, self._places, self._standby)
        async with AsyncExitStack() as stack:
            listening = stack.enter_context(_serving.listen(self._host, self._port, _BACKLOG))
            if config.http is not None:
                self._http = HttpServer(*config.http, self._view)
                await stack.enter_async_context(self._http)
            self._stack = stack.pop_all()
        self._listening = listening
        self._watch = Watch()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._start()
        return self

    def _begin_term(self, replication: Replication) -> None:
        if replication.primary is not None:
            trust = replication.trust
            pins = ",".join(trust.fingerprints) if trust is not None else None
            self.term.follow(_serving.join_address(*replication.primary), pins)
        elif self.term.lead(is_forced=replication.is_promoted):
            log.warning("promoted", term=self.term.number)
        elif self.term.replaced_by:
            log.critical(
                "replaced",
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
        """Starts what goes on until the end, whatever becomes of the rest."""
        self._tasks.start_soon(_serving.keep_running, what, step, *arguments)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(kind, error, trace)
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()
            await self.ledger.close()
            self.clock.save()

    @property
    def state(self) -> State:
        """What the registry knows."""
        return self.ledger.state

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._listening.getsockname()
        return host, port

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Where HTTP is served."""
        return self._http.address if self._http is not None else None

    @property
    def standby(self) -> Standby | None:
        """What follows the primary, on a standby."""
        return self._standby

    @property
    def role(self) -> str:
        """``primary``, ``standby``, or ``replaced`` for a primary whose place another has taken."""
        return self._view.role

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return self._view.connections

    async def _reap(self) -> None:
        """Lets lapse what time is over for."""
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
        if not self._places.enter(seat, is_exempt=is_exempt):
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
            self._places.leave(seat)
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _converse(
        self, plain: anyio.abc.SocketStream, host: str, port: int, seat: Seat
    ) -> str:
        """Serves a connection to its end; returns why it was cut, if it was."""
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
                on_proof=lambda: self._places.prove(seat),
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
    """The label of what ended a connection; empty if the other side just closed it."""
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
