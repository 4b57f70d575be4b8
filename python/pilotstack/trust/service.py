"""The trust service of one daemon: carries out what :class:`~pilotstack.trust.state.Trust` decides.

It takes handshakes on port 444 through a driver of its own on the daemon's socket, and what the
registry relays through a connection on which the registry holds the poll until there is something.
Nothing here runs in the packet path: the IO thread holds a stranger's packets while it asks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

from pilotstack import _events, _serving
from pilotstack.errors import AlreadyExists, ConnectionFailed, NotFound, PilotError
from pilotstack.trust import messages
from pilotstack.trust.handshake import HandshakePort
from pilotstack.trust.messages import Kind, Message
from pilotstack.trust.records import (
    Admit,
    Confirm,
    Dismiss,
    Effect,
    Effects,
    Event,
    PeerRecord,
    Persist,
    ReportTrust,
    Respond,
    RevokeTrust,
    Send,
)
from pilotstack.trust.state import Rows, Trust

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import Record, RegistryClient, Signer
    from pilotstack.trust.store import TrustStore

log = _events.get_logger(__name__)

#: Seconds for a direct request, before the registry relays it, and for a farewell.
DIRECT = 3.0
FAREWELL = 2.0
#: Seconds for which a verdict holds: of our own trust (its end is told), of the registry's, and a
#: refusal, which must not outlive a trust that comes about elsewhere.
TRUSTED_FOR = 3600.0
CHECKED_FOR = 60.0
REFUSED_FOR = 5.0
#: Seconds that a record of the registry may be old when a handshake or a membership is judged.
RECORD_AGE = 30.0
#: Seconds between comparisons with the registry, and peers compared at once.
RECONCILE = 300.0
MAX_COMPARED = 256
MAX_COMPARED_OFTEN = 32
#: Seconds between attempts to tell the registry about a peer that is away, at most.
MAX_RETRY = 600.0
#: Seconds since the newest row in which we may have been away, as far as a clock alone says so.
MAX_AWAY = 7 * 86_400.0
#: Seconds in which a live peer was heard by the registry.
LIVE = 120


#: Later than any trust, for what is known to be true now.
_NOW = 1 << 62


class Gate(Protocol):
    """The part of the core that lets peers in."""

    def on_admission(
        self, node: int, is_admitted: bool, seconds: float, *, network: int = 0
    ) -> None:
        """Gives a verdict about a peer."""

    def expect_call(self, node: int) -> None:
        """Lets a peer call back for a while."""

    def dismiss(self, node: int) -> None:
        """Resets a peer's streams and forgets it."""


_Report = Respond | ReportTrust | RevokeTrust


@dataclass(frozen=True, slots=True)
class _Untold:
    """What the registry must still be told, when, and how long to wait after that."""

    effect: _Report
    due: float
    delay: float


class TrustService:
    """Trust of one daemon.

    Args:
        registry: the registered client.
        signer: our identity.
        gate: lets peers in.
        store: keeps the rows.
        profile: what the registry says about a node, at most so many seconds old.
        forget: drops what is remembered of a node, because we may know more now.

    Raises:
        InvalidArgument: the store cannot be understood.
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
        #: What the registry must still be told, by kind and peer.
        self._untold: dict[tuple[type[Effect], int], _Untold] = {}
        now, newest = time.time(), self.trust.rows.newest()
        self._begin = (min(now, newest + MAX_AWAY) if newest else now) - time.monotonic()
        self._compared: list[int] = []
        #: Peers that the registry was told we trust, since we registered.
        self._reported: set[int] = set()
        #: Called when a request of ours waits for an answer.
        self.on_request: Callable[[], None] = lambda: None

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Serves until the group ends."""
        self._tasks = tasks
        tasks.start_soon(self._reconcile_forever)

    def age(self) -> float:
        """The time by which rows lapse: it goes on with the monotonic clock, so a wall clock that
        steps ends nothing, and one that is wrong at the start is believed for a week at most."""
        return self._begin + time.monotonic()

    @property
    def dropped(self) -> Counter[str]:
        """What was dropped, by reason."""
        return self.trust.dropped + self.port.dropped

    # The operator's wishes

    async def request(self, peer: int, justification: str) -> bool:
        """Asks a peer for trust; returns when it or the registry has the request. ``False`` if the
        same is under way already.

        Raises:
            InvalidArgument: see :meth:`Trust.request`.
            ConnectionFailed: neither the peer nor the registry takes it.
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
        """Grants a request. Whether there is trust now."""
        await self.perform(self.trust.approve(peer, time.time()))
        return self.trust.is_trusted(peer)

    async def reject(self, peer: int, reason: str) -> bool:
        """Refuses a request. Whether there was one."""
        effects = self.trust.reject(peer, reason, time.time())
        await self.perform(effects)
        return bool(effects)

    async def revoke(self, peer: int) -> None:
        """Ends a trust; returns when the peer's streams are reset.

        Raises:
            NotFound: there is none.
        """
        await self.perform(self.trust.revoke(peer, time.time()))

    async def wait(self, peer: int, timeout: float) -> bool:
        """Whether there is trust within ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            while not self.trust.is_trusted(peer):
                await self._changed.wait()
        return self.trust.is_trusted(peer)

    async def _deliver(self, sent: Send) -> None:
        """Brings a request to its peer, directly or through the registry."""
        self._gate.expect_call(sent.peer)
        octets = messages.encode(self._signed(sent))
        is_delivered = False
        if len(octets) <= messages.MAX_SEGMENT:
            is_delivered = await self.port.send(sent.peer, octets, DIRECT)
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
        # The answer will need the key; it is at hand by then.
        with suppress(PilotError):
            await self._profile(sent.peer, RECORD_AGE)

    # What arrives

    async def _judge(self, source: int, message: Message) -> Effects | None:
        """What a message leads to; ``None`` if it is dropped."""
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
        # Some are dropped and still lead to something.
        return effects if effects or trust.dropped.total() == before else None

    async def _recheck(self, peer: int) -> None:
        """Nobody asks for trust that it still has, so a peer of ours that does may have revoked it
        without our hearing of it; the registry knows."""
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
            return peer in self._reported
        return is_asking and not stands

    async def _record(self, peer: int, key: bytes = b"") -> PeerRecord | None:
        """What the registry says about a peer, fetched again if it does not name the key."""
        try:
            found = await self._profile(peer, RECORD_AGE)
            if key and found.public_key != key:
                found = await self._profile(peer, 0)
        except PilotError as error:
            log.debug("no_record", node=peer, error=str(error))
            return None
        return PeerRecord(found.public_key, found.networks)

    async def relayed_request(self, peer: int, justification: str) -> None:
        """Takes a request from the registry's inbox."""
        record = await self._record(peer)
        await self._recheck(peer)
        await self.perform(self.trust.relayed_request(peer, justification, record, time.time()))

    async def relayed_response(self, peer: int, accept: bool, timestamp: int) -> None:
        """Takes an answer from the registry's inbox."""
        record = await self._record(peer) if accept else None
        effects = self.trust.relayed_response(peer, accept, timestamp, record, time.time())
        await self.perform(effects)

    async def relayed_revocation(self, peer: int, timestamp: int) -> None:
        """Takes the end of a trust from the registry's inbox."""
        await self.perform(self.trust.relayed_revocation(peer, timestamp, time.time()))

    # Tunnels and registration

    async def admit(self, node: int, network: int, key: bytes) -> None:
        """Decides about a peer that wants in, for the IO thread."""
        is_admitted, seconds = False, REFUSED_FOR
        try:
            await self.key_seen(node, key)
            is_admitted, seconds = await self._verdict(node, network)
        except PilotError as error:
            log.debug("not_admitted", node=node, error=str(error))
        self._gate.on_admission(node, is_admitted, seconds, network=network)

    async def _verdict(self, node: int, network: int) -> tuple[bool, float]:
        if network:
            record = await self._profile(node, RECORD_AGE)
            if network not in record.networks:
                # It may have joined since.
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
        """A peer's key was proved or fetched: trust in another one ends."""
        await self.perform(self.trust.key_seen(node, key, time.time()))

    @_serving.contained
    async def registered(self) -> None:
        """After a registration, the registry is told whom we trust."""
        self._reported.clear()
        await self.perform(self.trust.registered(time.time()))
        await self.catch_up()
        # A peer may have revoked while we were away.
        with suppress(PilotError):
            await self._compare()

    async def alive(self) -> None:
        """The registry answered a heartbeat, so it can be told what it missed."""
        now = time.monotonic()
        for untold in [row for row in self._untold.values() if row.due <= now]:
            await self._tell(untold.effect, untold.delay)

    async def catch_up(self) -> None:
        """Takes approvals that the registry knows and did not relay: where we asked, and the pair
        is there."""
        for peer in list(self.trust.rows.outgoing)[:MAX_COMPARED]:
            with suppress(PilotError):
                if await self._registry.check_trust(peer):
                    record = await self._record(peer)
                    effects = self.trust.confirmed(peer, True, record, time.time())
                    await self.perform(effects)
                elif await self._registry.grants_trust(peer):
                    # Its answer did not reach us, and is not relayed to who asked directly.
                    await self._confirm(peer)

    @_serving.endless
    async def _reconcile_forever(self) -> None:
        while True:
            await anyio.sleep(RECONCILE)
            await self.perform(self.trust.expire(self.age()))
            await self.catch_up()
            with suppress(PilotError):
                await self._compare()

    async def compare(self) -> None:
        """Compares a few of our trusts with a registry that does not tell when one ends; to be
        called as often as it is heard."""
        with suppress(PilotError):
            await self._compare(MAX_COMPARED_OFTEN)

    async def _compare(self, count: int = MAX_COMPARED) -> None:
        """Compares some of our trust with the registry's."""
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
        """Carries out what the machine decided, in order."""
        for effect in effects:
            match effect:
                case Persist():
                    await self._save()
                case Send():
                    await self._send(effect)
                case Respond() | ReportTrust() | RevokeTrust():
                    await self._tell(effect)
                case Confirm(peer):
                    await self._confirm(peer)
                case Admit(peer):
                    self._forget(peer)
                    self._gate.on_admission(peer, True, TRUSTED_FOR)
                case Dismiss(peer):
                    self._forget(peer)
                    self._gate.dismiss(peer)
                case Event():
                    log.info(effect.name, node=effect.peer, reason=effect.reason)
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
                # Trust goes on from memory, and the next change tries again.
                log.error("trust_not_stored", error=str(error), path=str(self._store.path))

    def _signed(self, sent: Send) -> Message:
        challenge = messages.challenge(self.trust.own, sent.peer)
        signature = self.signer.sign(challenge)
        key = self.signer.public_key
        return Message(sent.kind, self.trust.own, key, signature, sent.timestamp, sent.text)

    async def _send(self, sent: Send) -> None:
        octets = messages.encode(self._signed(sent))
        if sent.kind is Kind.REVOKE:
            # The tunnel goes next, so this must be out.
            await self.port.send(sent.peer, octets, FAREWELL)
        elif self._tasks is not None:
            self._gate.expect_call(sent.peer)
            send = self.port.send
            self._tasks.start_soon(_serving.contain, "handshake", send, sent.peer, octets, DIRECT)

    async def _tell(self, effect: _Report, delay: float = 0.0) -> None:
        is_end = isinstance(effect, RevokeTrust)
        overtaken = (Respond, ReportTrust) if is_end else (RevokeTrust,)
        for kind in (*overtaken, type(effect)):
            self._untold.pop((kind, effect.peer), None)
        try:
            match effect:
                case Respond(peer, accept):
                    await self._registry.respond_handshake(peer, accept=accept)
                case ReportTrust(peer):
                    await self._registry.report_trust(peer)
                    self._reported.add(peer)
                case RevokeTrust(peer):
                    self._reported.discard(peer)
                    await self._registry.revoke_trust(peer)
        except (ConnectionFailed, NotFound) as error:
            # It is away, or the peer is and may return.
            log.debug("registry_untold", node=effect.peer, error=str(error))
            due = time.monotonic() + delay
            later = _Untold(effect, due, min(2 * delay + 1, MAX_RETRY))
            self._untold[type(effect), effect.peer] = later
        except PilotError as error:
            # A refusal: the registry knows better.
            log.debug("registry_refused", node=effect.peer, error=str(error))

    async def _confirm(self, peer: int) -> None:
        try:
            is_active = await self._registry.check_trust(peer)
            if is_active is False:
                await self._registry.report_trust(peer)
                is_active = await self._registry.check_trust(peer)
        except PilotError as error:
            # Asked again with the next comparison, because our request stands.
            log.debug("not_confirmed", node=peer, error=str(error))
            return
        record = await self._record(peer)
        effects = self.trust.confirmed(peer, is_active, record, time.time())
        await self.perform(effects)
