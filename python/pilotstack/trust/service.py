"""The trust service of one daemon: performs the effects of :class:`~pilotstack.trust.state.Trust`.

It receives handshakes on port 444 through its own driver on the daemon's socket, and relayed items
by long polls on a separate registry connection. Nothing here runs per packet: the IO thread holds
the packets of an unadmitted peer while it waits for the verdict.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

from pilotstack import _events, _serving
from pilotstack.errors import AlreadyExists, NotFound, PilotError
from pilotstack.trust import messages
from pilotstack.trust.handshake import HandshakePort
from pilotstack.trust.messages import Kind, TrustMessage
from pilotstack.trust.records import (
    Admit,
    AskPair,
    Confirm,
    Dismiss,
    Effects,
    Event,
    PeerRecord,
    Persist,
    ReportTrust,
    Respond,
    RevokeTrust,
    Send,
)
from pilotstack.trust.reports import Reports
from pilotstack.trust.state import Rows, Trust

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import Record, RegistryClient, Signer
    from pilotstack.trust.store import TrustStore

log = _events.get_logger(__name__)

#: Timeouts of a direct request, before the registry relays it, and of a revocation, seconds.
DIRECT = 3.0
FAREWELL = 2.0
#: Lifetime of verdicts, seconds: from our own trust (its end is notified), from the registry, and
#: of a refusal, which must not outlive the start of a trust elsewhere.
TRUSTED_FOR = 3600.0
CHECKED_FOR = 60.0
REFUSED_FOR = 5.0
#: Largest age of a registry record used to judge a handshake or a membership, seconds.
RECORD_AGE = 30.0
#: Interval of reconciliation with the registry, seconds, and peers reconciled at once.
RECONCILE = 300.0
MAX_COMPARED = 256
MAX_COMPARED_OFTEN = 32
#: Longest offline time believed from the wall clock alone, seconds.
MAX_AWAY = 7 * 86_400.0
#: A peer heard by the registry within this time is alive, seconds.
LIVE = 120


#: Timestamp later than any trust, for facts that hold now.
_NOW = 1 << 62


class Gate(Protocol):
    """The admission calls of the core."""

    def on_admission(
        self,
        node: int,
        is_admitted: bool,
        seconds: float,
        *,
        network: int = 0,
        ports: list[int] = ...,
    ) -> None:
        """Sets the verdict about a peer, on the backbone for these ports or for all."""

    def expect_call(self, node: int) -> None:
        """Lets a peer open streams to us for a while."""

    def dismiss(self, node: int) -> None:
        """Resets a peer's streams and drops its tunnel."""


class TrustService:
    """Trust of one daemon.

    Args:
        registry: the registered client.
        signer: our identity.
        gate: admits peers.
        store: stores the rows.
        profile: returns the registry record of a node, at most so many seconds old.
        forget: drops the cached record of a node.

    Raises:
        InvalidArgument: the store cannot be parsed.
    """

    def __init__(
        self,
        registry: RegistryClient,
        signer: Signer,
        gate: Gate,
        store: TrustStore,
        profile: Callable[[int, float], Awaitable[Record]],
        forget: Callable[[int], None],
    ) -> None:
        self.trust = Trust(store.load())
        self.port = HandshakePort(self._judge, self.perform)
        self._registry = registry
        #: Signs messages; replaced when the node's key is.
        self.signer = signer
        self._gate = gate
        self._store = store
        self._profile = profile
        self._forget = forget
        self._saving = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._changed = anyio.Event()
        self._in_flight: set[int] = set()
        self._reports = Reports(registry)
        now, newest = time.time(), self.trust.rows.newest()
        self._begin = (min(now, newest + MAX_AWAY) if newest else now) - time.monotonic()
        self._compared: list[int] = []
        #: The ports that networks allow in all; none for every port.
        self.ports_of: Callable[[frozenset[int]], Awaitable[tuple[int, ...]]] = _all_ports
        #: Called when a request of ours awaits an answer.
        self.on_request: Callable[[], None] = lambda: None

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Serves until the group ends."""
        self._tasks = tasks
        tasks.start_soon(self._reconcile_forever)

    def age(self) -> float:
        """The time used to expire rows. It advances with the monotonic clock, so that a step of the
        wall clock expires nothing; a wrong wall clock at the start counts for at most a week.
        """
        return self._begin + time.monotonic()

    @property
    def dropped(self) -> Counter[str]:
        """What was dropped, by reason."""
        return self.trust.dropped + self.port.dropped

    # Calls of the operator

    async def request(self, peer: int, justification: str) -> bool:
        """Requests trust; returns when the peer or the registry has the request. ``False`` if the
        same request is in progress.

        Raises:
            InvalidArgument: see :meth:`Trust.request`.
            ConnectionFailed: neither the peer nor the registry accepts it.
            NotFound: there is no such node.
        """
        if peer in self._in_flight:
            return False
        self._in_flight.add(peer)
        try:
            effects = self.trust.request(peer, justification, time.time())
            requests = [e for e in effects if isinstance(e, Send) and e.kind is Kind.REQUEST]
            await self.perform(tuple(e for e in effects if e not in requests))
            for request in requests:
                await self._deliver(request)
        finally:
            self._in_flight.discard(peer)
        return True

    async def approve(self, peer: int) -> bool:
        """Approves a request. Returns whether the peer is trusted now."""
        await self.perform(self.trust.approve(peer, time.time()))
        return self.trust.is_trusted(peer)

    async def reject(self, peer: int, reason: str) -> bool:
        """Rejects a request. Returns whether there was one."""
        effects = self.trust.reject(peer, reason, time.time())
        await self.perform(effects)
        return bool(effects)

    async def revoke(self, peer: int) -> None:
        """Revokes a trust; returns when the peer's streams are reset.

        Raises:
            NotFound: there is none.
        """
        await self.perform(self.trust.revoke(peer, time.time()))

    async def wait(self, peer: int, timeout: float) -> bool:
        """Waits for trust. Returns whether it exists within ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            while not self.trust.is_trusted(peer):
                await self._changed.wait()
        return self.trust.is_trusted(peer)

    async def _deliver(self, sent: Send) -> None:
        """Delivers a request to its peer, directly or through the registry."""
        self._gate.expect_call(sent.peer)
        data = messages.encode(self._signed(sent))
        is_delivered = False
        if len(data) <= messages.MAX_SEGMENT:
            is_delivered = await self.port.send(sent.peer, data, DIRECT)
        if is_delivered and not sent.is_repeat:
            return
        try:
            await self._registry.request_handshake(sent.peer, sent.text)
        except PilotError as error:
            if is_delivered or isinstance(error, AlreadyExists):
                return
            await self.perform(self.trust.undelivered(sent.peer))
            raise type(error)(f"handshake relay: {error.message}", hint=error.hint) from error
        self.on_request()
        # Prefetch the record; the answer needs the peer's key.
        with suppress(PilotError):
            await self._profile(sent.peer, RECORD_AGE)

    # Incoming messages

    async def _judge(self, source: int, message: TrustMessage) -> Effects | None:
        """The effects of a message; ``None`` if it is dropped."""
        trust = self.trust
        if problem := trust.screen(message, source, time.time()):
            trust.dropped[problem] += 1
            log.debug("handshake_dropped", peer=source, reason=problem)
            return None
        record = await self._record(source, message.public_key)
        if message.kind is Kind.REQUEST:
            await self._recheck(source)
        before = trust.dropped.total()
        effects = trust.receive(message, source, record, time.time())
        # Some dropped messages still have effects.
        return effects if effects or trust.dropped.total() == before else None

    async def _recheck(self, peer: int) -> None:
        """Checks a trust with the registry: a trusted peer that requests trust may have revoked it
        without our knowledge.
        """
        if not self.trust.is_trusted(peer):
            return
        with suppress(PilotError):
            if await self._registry.check_trust(peer) is False and await self._is_revoked(
                peer, is_asking=True
            ):
                await self.perform(self.trust.relayed_revocation(peer, _NOW, time.time()))

    async def _is_revoked(self, peer: int, *, is_asking: bool) -> bool:
        """Whether a trust that the registry does not know has been revoked.

        A registry of ours sends word of that, so if our own report is gone too, it may as well have
        lost it; unless the peer asks for trust anew. Others have nothing but the pair, which our
        report made.
        """
        stands = await self._registry.claims_trust(peer)
        if stands is None:
            return self._reports.is_reported(peer)
        return is_asking and not stands

    async def _record(self, peer: int, key: bytes = b"") -> PeerRecord | None:
        """The registry record of a peer, refetched if it does not name ``key``."""
        try:
            found = await self._profile(peer, RECORD_AGE)
            if key and found.public_key != key:
                found = await self._profile(peer, 0)
        except PilotError as error:
            log.debug("no_record", node=peer, error=str(error))
            return None
        return PeerRecord(found.public_key, found.networks)

    async def relayed_request(self, peer: int, justification: str) -> None:
        """Processes a request from the registry's inbox."""
        record = await self._record(peer)
        await self._recheck(peer)
        await self.perform(self.trust.relayed_request(peer, justification, record, time.time()))

    async def relayed_response(self, peer: int, accept: bool, timestamp: int) -> None:
        """Processes an answer from the registry's inbox."""
        record = await self._record(peer) if accept else None
        effects = self.trust.relayed_response(peer, accept, timestamp, record, time.time())
        await self.perform(effects)

    async def relayed_revocation(self, peer: int, timestamp: int) -> None:
        """Processes a revocation from the registry's inbox."""
        await self.perform(self.trust.relayed_revocation(peer, timestamp, time.time()))

    async def removed(self, peer: int, *, is_banned: bool) -> None:
        """A peer is no member of one of our networks any more, or banned from the registry. Its
        streams are reset; those that it may still have can be opened anew."""
        if is_banned and self.trust.is_trusted(peer):
            await self.relayed_revocation(peer, _NOW)
        self._forget(peer)
        self._gate.dismiss(peer)
        log.info("peer_removed", node=peer, banned=is_banned)

    # Tunnels and registration

    async def admit(self, node: int, network: int, key: bytes) -> None:
        """Decides about the admission of a peer, for the IO thread."""
        is_admitted, seconds = False, REFUSED_FOR
        ports: tuple[int, ...] = ()
        try:
            await self.key_seen(node, key)
            is_admitted, seconds = await self._verdict(node, network)
            if is_admitted and not (network or self.trust.is_trusted(node)):
                ports = await self._ports_for(node)
        except PilotError as error:
            is_admitted, seconds = False, REFUSED_FOR
            log.debug("not_admitted", node=node, error=str(error))
        self._gate.on_admission(node, is_admitted, seconds, network=network, ports=list(ports))

    async def _ports_for(self, node: int) -> tuple[int, ...]:
        """The ports of a peer that the registry admits. One that only shares networks with us must
        not evade their policies by our address on the backbone."""
        if len(self.trust.networks) < 2:
            return ()
        registry = self._registry
        if await registry.claims_trust(node) and await registry.grants_trust(node):
            return ()
        record = await self._profile(node, RECORD_AGE)
        shared = self.trust.networks & record.networks - {0}
        return await self.ports_of(shared) if shared else ()

    async def _verdict(self, node: int, network: int) -> tuple[bool, float]:
        if network:
            record = await self._profile(node, RECORD_AGE)
            if network not in record.networks:
                # It may have joined the network since.
                record = await self._profile(node, 0.0)
            is_member = network in record.networks
            return is_member, CHECKED_FOR if is_member else REFUSED_FOR
        if self.trust.is_trusted(node):
            return True, TRUSTED_FOR
        if self.trust.is_cooling(node, time.time()):
            return False, REFUSED_FOR
        is_known = await self._registry.check_trust(node)
        return bool(is_known), CHECKED_FOR if is_known else REFUSED_FOR

    async def key_seen(self, node: int, key: bytes) -> None:
        """A peer's key was proved or fetched: a trust in another key ends."""
        await self.perform(self.trust.key_seen(node, key, time.time()))

    @_serving.contained
    async def registered(self) -> None:
        """Reports all trust to the registry after a registration."""
        self._reports.registered()
        await self.perform(self.trust.registered(time.time()))
        await self.catch_up()
        # A peer may have revoked its trust while we were offline.
        with suppress(PilotError):
            await self._reconcile()

    async def alive(self) -> None:
        """Retries pending reports, because the registry answered a heartbeat."""
        await self._reports.retry()

    async def catch_up(self) -> None:
        """Processes approvals that were not relayed: our requests whose pair is active."""
        for peer in list(self.trust.rows.outgoing)[:MAX_COMPARED]:
            with suppress(PilotError):
                if await self._registry.check_trust(peer):
                    record = await self._record(peer)
                    effects = self.trust.confirmed(peer, True, record, time.time())
                    await self.perform(effects)
                elif await self._registry.grants_trust(peer):
                    # The answer was lost; answers to direct requests are not relayed.
                    await self._confirm(peer)

    @_serving.endless
    async def _reconcile_forever(self) -> None:
        while True:
            await anyio.sleep(RECONCILE)
            await self.perform(self.trust.expire(self.age()))
            await self.catch_up()
            with suppress(PilotError):
                await self._reconcile()

    async def compare(self) -> None:
        """Reconciles some trusts with a registry that does not notify revocations; called on every
        heartbeat.
        """
        with suppress(PilotError):
            await self._reconcile(MAX_COMPARED_OFTEN)

    async def _reconcile(self, count: int = MAX_COMPARED) -> None:
        """Reconciles some trusts with the registry."""
        if not self._compared:
            self._compared = sorted(self.trust.rows.trusted)
        chosen, self._compared = self._compared[:count], self._compared[count:]
        for peer in chosen:
            is_active = await self._registry.check_trust(peer)
            is_live = False
            if is_active is False and await self._is_revoked(peer, is_asking=False):
                await self.perform(self.trust.relayed_revocation(peer, _NOW, time.time()))
                continue
            if is_active is False:
                with suppress(NotFound):
                    record = await self._profile(peer, RECORD_AGE)
                    is_live = time.time() - record.last_seen < LIVE
            effects = self.trust.checked(peer, is_active, time.time(), is_live=is_live)
            await self.perform(effects)

    # Effects

    async def perform(self, effects: Effects) -> None:
        """Performs effects in order."""
        for effect in effects:
            match effect:
                case Persist():
                    await self._save()
                case Send():
                    await self._send(effect)
                case Respond() | ReportTrust() | RevokeTrust():
                    await self._reports.send(effect)
                case Confirm(peer):
                    await self._confirm(peer)
                case AskPair(peer):
                    await self._ask_pair(peer)
                case Admit(peer):
                    self._forget(peer)
                    self._gate.on_admission(peer, True, TRUSTED_FOR)
                case Dismiss(peer):
                    self._forget(peer)
                    self._gate.dismiss(peer)
                case Event():
                    log.security(effect.name, node=effect.peer, reason=effect.reason)
                    self._changed.set()
                    self._changed = anyio.Event()

    async def _save(self) -> None:
        async with self._saving:
            rows = self.trust.rows
            kept = Rows(
                dict(rows.trusted), dict(rows.pending), dict(rows.outgoing), dict(rows.revoked)
            )
            try:
                await anyio.to_thread.run_sync(self._store.save, kept)
            except OSError as error:
                # Keep the state in memory; the next change saves again.
                log.error("trust_not_stored", error=str(error), path=str(self._store.path))

    def _signed(self, sent: Send) -> TrustMessage:
        challenge = messages.challenge(self.trust.own, sent.peer)
        signature = self.signer.sign(challenge)
        key = self.signer.public_key
        return TrustMessage(sent.kind, self.trust.own, key, signature, sent.timestamp, sent.text)

    async def _send(self, sent: Send) -> None:
        data = messages.encode(self._signed(sent))
        if sent.kind is Kind.REVOKE:
            # The tunnel is dropped next, so the message must be sent first.
            await self.port.send(sent.peer, data, FAREWELL)
        elif self._tasks is not None:
            self._gate.expect_call(sent.peer)
            send = self.port.send
            self._tasks.start_soon(_serving.contain, "handshake", send, sent.peer, data, DIRECT)

    async def _confirm(self, peer: int) -> None:
        try:
            is_active = await self._registry.check_trust(peer)
            if is_active is False:
                await self._registry.report_trust(peer)
                is_active = await self._registry.check_trust(peer)
        except PilotError as error:
            # Repeated with the next reconciliation, because our request is still open.
            log.debug("not_confirmed", node=peer, error=str(error))
            return
        record = await self._record(peer)
        effects = self.trust.confirmed(peer, is_active, record, time.time())
        await self.perform(effects)

    async def _ask_pair(self, peer: int) -> None:
        try:
            is_pair = await self._registry.check_trust(peer)
            # Membership of a shared network is no consent, and a registry of ours can tell.
            if is_pair and await self._registry.claims_trust(peer) is False:
                is_pair = False
        except PilotError as error:
            log.debug("pair_not_asked", node=peer, error=str(error))
            return
        record = await self._record(peer)
        await self.perform(self.trust.unsolicited(peer, is_pair, record, time.time()))


async def _all_ports(networks: frozenset[int]) -> tuple[int, ...]:
    del networks
    return ()
