"""Answers requests: limits, the registry's role, state machine, durability, wake-ups. No sockets
here."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
from msgspec import UNSET

from pilotstack import _events, _serving
from pilotstack.registry.model.budgets import LogLimit
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.base import Refusal
from pilotstack.registry.protocol.requests.replication import AnnounceTerm, AnnounceTermReply
from pilotstack.registry.protocol.requests.trust import PollHandshakes, PollHandshakesReply
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.rules.call import Outcome
from pilotstack.registry.rules.dispatch import HANDLERS, apply
from pilotstack.registry.rules.trust import waiting_for
from pilotstack.registry.server import trail
from pilotstack.registry.server.limits import Limits, Throttle
from pilotstack.registry.server.metrics import Metrics
from pilotstack.registry.server.waiting import MAX_WAIT, Waiters
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.store import OutcomeUnknown
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pilotstack.registry.model.source import Source
    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.server.limits import Allowance
    from pilotstack.registry.storage.ledger import Ledger

log = _events.get_logger(__name__)

#: The text of an internal error to clients; the log has the details.
_FAILURE: Final = "internal error"


class Service:
    """Answers the requests of all connections.

    Args:
        ledger: the state.
        limits: of sources and connections.
        primary: ``host:port`` of the primary if this is a standby, which answers reads only.
        standing: cluster and term; by default a cluster of its own.
        notify: receives ids of nodes that have something to fetch and hold no poll.
        clock: the registry's time.
    """

    def __init__(
        self,
        ledger: Ledger,
        limits: Limits,
        *,
        primary: str = "",
        standing: Standing | None = None,
        notify: Callable[[Iterable[int]], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.ledger = ledger
        self.clock = clock or Clock()
        self.primary = primary
        self.standing = standing or Standing(Term(None))
        self.throttle = Throttle(limits, lambda key: key in self.ledger.state.by_key)
        self.waiters = Waiters()
        self.metrics = Metrics()
        self._notify = notify
        self._log_limit = LogLimit(time.monotonic())

    async def answer(self, request: Request[Reply], source: Source, allowance: Allowance) -> Reply:
        """The reply to a request, once its changes are durable."""
        started = time.perf_counter()
        if request.term_proof:
            self.notice(request)
        reply = self._refuse(request, allowance)
        if reply is None:
            outcome = self._apply(request, source)
            reply = outcome.reply
            if outcome.changes and (refusal := await self._store(outcome)):
                reply = refusal
            else:
                self._wake(outcome)
            trail.note(request, source, reply, outcome.changes)
            if outcome.delay and not allowance.is_exempt:
                await anyio.sleep(outcome.delay)
        self.metrics.answered(type(request), reply, seconds=time.perf_counter() - started)
        return reply

    def _refuse(self, request: Request[Reply], allowance: Allowance) -> Reply | None:
        """The reply to a request that does not reach the state machine; ``None`` for others."""
        if text := allowance.refusal(request, time.monotonic()):
            self.metrics.throttled()
            return Refusal(error=text, code=Code.RATE_LIMITED)
        if request.cluster and self.standing.is_foreign(request.cluster):
            return Refusal(error="this registry belongs to another cluster", code=Code.FOREIGN)
        if isinstance(request, AnnounceTerm):
            return AnnounceTermReply()
        if self.primary or self.standing.is_replaced:
            return self._refuse_as_copy(request)
        return None

    def _refuse_as_copy(self, request: Request[Reply]) -> Reply | None:
        """The refusal of a request that only the primary may answer; ``None`` for others."""
        if type(request) not in HANDLERS:
            return None
        text = ""
        if not request.is_read:
            text = "write operations not accepted"
        if text and self.standing.is_replaced:
            text = f"standby mode: {text} (this registry was replaced)"
            return Refusal(error=text, code=Code.STANDBY)
        if self.primary and not text and self.ledger.is_blank:
            # "not found" would make a node believe that it was forgotten.
            text = "nothing has been copied yet"
        if not text:
            return None
        text = f"standby mode: {text} (use primary {self.primary})"
        return Refusal(error=text, code=Code.STANDBY, primary=self.primary)

    def notice(self, request: Request[Reply]) -> None:
        """Learns from a request that another registry has replaced this one, which from then on
        writes nothing."""
        try:
            is_news = self.standing.learn(request.cluster, request.term, request.term_proof)
        except OSError as error:
            is_news = True
            log.error("term_failed", error=str(error))
        if is_news:
            self.ledger.state.policy = replace(self.ledger.state.policy, is_standby=True)
            log.security(
                "replaced",
                level=logging.CRITICAL,
                term=self.standing.term.number,
                by=self.standing.term.replaced_by,
                hint="start it again as a standby of the registry that serves",
            )

    def try_secret(self, request: Request[Reply], source: Source, *, is_wrong: bool) -> str:
        """Counts a secret outside the state machine; returns why it is refused without checking, or
        an empty string."""
        guesses, now = self.ledger.state.guesses, self.clock.now()
        try:
            guesses.check(source.host, now)
        except Denied as denied:
            return str(denied)
        if is_wrong:
            guesses.wrong(source.host, now)
            self._note(("replication token",), request, source)
        return ""

    def settle_term(self) -> None:
        """Writes a change of cluster and term that could not be written before."""
        try:
            self.standing.term.settle()
        except OSError as error:
            log.error("term_failed", error=str(error))

    def _apply(self, request: Request[Reply], source: Source) -> Outcome:
        state = self.ledger.state
        now, state.skew = self.clock.read()
        try:
            outcome = apply(state, request, source, now)
        except Exception as error:
            _serving.failures.note(f"request {type(request).__name__}", error)
            return Outcome(Refusal(error=_FAILURE, code=Code.INTERNAL))
        if outcome.wrong_secrets:
            self._note(outcome.wrong_secrets, request, source)
        return outcome

    async def _store(self, outcome: Outcome) -> Refusal | None:
        """Returns once changes are durable, or the refusal if they cannot be stored."""
        try:
            await self.ledger.commit(outcome.changes)
        except OutcomeUnknown:
            # Neither answer would be reliable.
            raise
        except OSError as error:
            text = f"registry cannot store the change: {error.strerror or error}"
            return Refusal(error=text, code=Code.NOT_STORED)
        return None

    def _note(self, secrets: tuple[str, ...], request: Request[Reply], source: Source) -> None:
        self.metrics.guessed()
        kind = request.__struct_config__.tag
        log.security(
            "wrong_secret", is_quiet=True, secrets=secrets, request=kind, source=source.host
        )
        unlogged = self._log_limit.take(time.monotonic())
        if unlogged is None:
            return
        log.warning("wrong_secret", secrets=secrets, type=kind, unlogged=unlogged)

    def left(self, source: Source) -> None:
        """Forgets what a connection proved, after its end."""
        self.ledger.state.left(source)

    def sweep(self) -> None:
        """Drops budgets that have refilled; to be called about every minute."""
        self.throttle.sweep(time.monotonic())
        state, now = self.ledger.state, self.clock.now()
        state.guesses.sweep(now)
        state.creations.sweep(now)

    def _wake(self, outcome: Outcome) -> None:
        if outcome.wakes:
            absent = self.waiters.wake(outcome.wakes)
            if absent and self._notify is not None:
                self._notify(absent)

    def holding(self, request: PollHandshakes, reply: Reply) -> float:
        """Seconds for which the reply to a poll is held back because it is empty; 0 for most."""
        if request.wait is UNSET or not isinstance(reply, PollHandshakesReply):
            return 0.0
        was_woken = self.waiters.forget(request.node_id)
        if was_woken or reply.requests or reply.responses or reply.removals:
            return 0.0
        if waiting_for(self.ledger.state, request.node_id):
            return 0.0
        return float(min(request.wait, MAX_WAIT))
