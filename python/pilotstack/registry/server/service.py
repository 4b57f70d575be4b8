"""Answers requests: limits, the role of this registry, the state machine, durability, wake-ups. It
knows nothing of sockets."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events
from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.budgets import Notes
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.standing import ANNOUNCE
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.rules.call import Outcome
from pilotstack.registry.rules.dispatch import HANDLERS, READS, apply
from pilotstack.registry.rules.trust import waiting_for
from pilotstack.registry.server.limits import Limits, Throttle
from pilotstack.registry.server.metrics import Metrics
from pilotstack.registry.server.waiting import MAX_WAIT, Waiters
from pilotstack.registry.storage.clock import Clock
from pilotstack.registry.storage.store import OutcomeUnknown
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pilotstack.registry.model.source import Source
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.server.limits import Allowance
    from pilotstack.registry.storage.ledger import Ledger

log = _events.get_logger(__name__)

#: What an error of ours looks like to a client; the log has the rest.
_FAILURE: Final = "internal error"


def refused(text: str, **more: object) -> Message:
    """An error reply."""
    return {"type": "error", "error": text, **more}


class Service:
    """What every connection asks.

    Args:
        ledger: the state.
        limits: how much a source may ask.
        primary: ``host:port`` of the primary, if this is a standby: it answers reads and refuses
            the rest.
        standing: what the registry says of itself; without, it is a cluster of its own.
        notify: told of nodes that something waits for and that do not wait themselves.
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
        self._notes = Notes(time.monotonic())

    async def answer(self, request: Message, source: Source, allowance: Allowance) -> Message:
        """The reply to a request, once what it changed is durable."""
        kind = values.text(request, "type")
        started = time.perf_counter()
        standing = self.standing
        if "term_proof" in request:
            self.notice(request)
        if text := allowance.refusal(request, time.monotonic()):
            self.metrics.throttled()
            reply = refused(text)
        elif "cluster" in request and standing.is_foreign(request):
            reply = refused("this registry belongs to another cluster", code="foreign")
        elif kind == ANNOUNCE:
            reply = {"type": f"{ANNOUNCE}_ok"}
        elif standing.is_replaced and kind in HANDLERS and kind not in READS:
            reply = refused(
                "standby mode: write operations not accepted (this registry was replaced)",
                code="standby",
            )
        elif self.primary and kind in HANDLERS and (text := self._refusal(kind)):
            reply = refused(
                f"standby mode: {text} (use primary {self.primary})",
                code="standby",
                primary=self.primary,
            )
        else:
            outcome = self._apply(request, source)
            reply = outcome.reply
            if outcome.changes and (text := await self._store(outcome)):
                reply = refused(text)
            else:
                self._wake(outcome)
            if outcome.delay and not allowance.is_exempt:
                await anyio.sleep(outcome.delay)
        reply.update(standing.members())
        self.metrics.answered(
            kind, is_error="error" in reply, seconds=time.perf_counter() - started
        )
        return reply

    def notice(self, request: Message) -> None:
        """Learns from a request that another registry has taken this one's place. From then on
        nothing is written here."""
        try:
            is_news = self.standing.learn(request)
        except OSError as error:
            is_news = True
            log.error("term_failed", error=str(error))
        if is_news:
            self.ledger.state.policy = replace(self.ledger.state.policy, is_standby=True)
            log.critical(
                "replaced",
                term=self.standing.term.number,
                by=self.standing.term.replaced_by,
                hint="start it again as a standby of the registry that serves",
            )

    def try_secret(self, request: Message, source: Source, *, is_wrong: bool) -> str:
        """Counts a secret that was shown apart from the state machine's; returns why it is refused
        unseen, if it is."""
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
        """Writes what a full disk kept from being written of cluster and term."""
        try:
            self.standing.term.settle()
        except OSError as error:
            log.error("term_failed", error=str(error))

    def _refusal(self, kind: str) -> str:
        """Why a standby does not answer."""
        if kind not in READS:
            return "write operations not accepted"
        # "not found" would make a node think that it is forgotten.
        return "nothing has been copied yet" if self.ledger.is_blank else ""

    def _apply(self, request: Message, source: Source) -> Outcome:
        state = self.ledger.state
        now, state.skew = self.clock.read()
        try:
            outcome = apply(state, request, source, now)
        except Exception:
            log.exception("request_failed", type=values.text(request, "type")[:64])
            return Outcome(refused(_FAILURE))
        if outcome.notes:
            self._note(outcome.notes, request, source)
        return outcome

    async def _store(self, outcome: Outcome) -> str:
        """Returns when what changed is durable, or why it cannot be."""
        try:
            await self.ledger.commit(outcome.changes)
        except OutcomeUnknown:
            # Neither answer would be true.
            raise
        except OSError as error:
            return f"registry cannot store the change: {error.strerror or error}"
        return ""

    def _note(self, secrets: tuple[str, ...], request: Message, source: Source) -> None:
        self.metrics.guessed()
        unlogged = self._notes.take(time.monotonic())
        if unlogged is None:
            return
        kind = values.text(request, "type")
        log.warning("wrong_secret", secrets=secrets, type=kind, peer=source.host, unlogged=unlogged)

    def left(self, source: Source) -> None:
        """A connection has ended."""
        self.ledger.state.left(source)

    def sweep(self) -> None:
        """Forgets who has been quiet; to be called every minute or so."""
        self.throttle.sweep(time.monotonic())
        state, now = self.ledger.state, self.clock.now()
        state.guesses.sweep(now)
        state.creations.sweep(now)

    def _wake(self, outcome: Outcome) -> None:
        if outcome.wakes:
            absent = self.waiters.wake(outcome.wakes)
            if absent and self._notify is not None:
                self._notify(absent)

    def holding(self, request: Message, reply: Message) -> float:
        """Seconds for which a reply is held back because there is nothing in it yet; 0 for most."""
        if reply.get("type") != "poll_handshakes_ok" or "wait" not in request:
            return 0.0
        node_id = values.number(request, "node_id")
        was_woken = self.waiters.forget(node_id)
        if was_woken or reply.get("requests") or reply.get("responses"):
            return 0.0
        if waiting_for(self.ledger.state, node_id):
            return 0.0
        return float(min(values.number(request, "wait"), MAX_WAIT))
