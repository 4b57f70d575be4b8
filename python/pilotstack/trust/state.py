"""The trust state machine: no sockets, files or clocks
(``docs/explanation/trust.md``).

Inputs are calls of the operator, messages on port 444, items relayed by the registry, and the time.
Each returns the :mod:`effects <pilotstack.trust.records>` to perform, in order. A peer is trusted
once both sides consented; messages from before the last revocation are ignored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.trust import messages
from pilotstack.trust.messages import Kind, TrustMessage
from pilotstack.trust.records import (
    Admit,
    AskPair,
    Confirm,
    Dismiss,
    Effects,
    Event,
    Outgoing,
    PeerRecord,
    Pending,
    Persist,
    ReportTrust,
    Respond,
    Revoked,
    RevokeTrust,
    Send,
    Trusted,
)
from pilotstack.trust.replays import Replays

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Largest age of a message, and how far it may be ahead of our clock, seconds.
MAX_AGE = 300
MAX_AHEAD = 30
#: Upper bound of pending requests, and lifetime of requests of both sides, seconds.
MAX_PENDING = 256
MAX_OUTGOING = 4096
LIFETIME = 30 * 86_400
#: Time after a revocation without automatic approval, seconds.
COOLDOWN = 300
#: Time in which legacy peers drop a second message of a type as a replay, seconds.
REPEAT = 900
#: Grace period for a pair that the registry does not know, seconds.
DOUBT = 60


@dataclass(slots=True)
class Rows:
    """The stored rows."""

    trusted: dict[int, Trusted]
    pending: dict[int, Pending]
    outgoing: dict[int, Outgoing]
    revoked: dict[int, Revoked]

    @classmethod
    def of(
        cls,
        trusted: Iterable[Trusted] = (),
        pending: Iterable[Pending] = (),
        outgoing: Iterable[Outgoing] = (),
        revoked: Iterable[Revoked] = (),
    ) -> Rows:
        """Rows by node."""
        return cls(
            {row.node_id: row for row in trusted},
            {row.node_id: row for row in pending},
            {row.node_id: row for row in outgoing},
            {row.node_id: row for row in revoked},
        )

    def newest(self) -> int:
        """Timestamp of the newest row that can expire; 0 if there is none."""
        times = [row.received_at for row in self.pending.values()]
        times += [row.sent_at for row in self.outgoing.values()]
        times += [row.at for row in self.revoked.values()]
        return max(times, default=0)


class Trust:
    """One node's trust.

    Args:
        rows: the stored rows.
    """

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = rows or Rows.of()
        #: Our own id and networks; set after registration.
        self.own = 0
        self.networks: frozenset[int] = frozenset()
        #: Every request is granted.
        self.approves_all = False
        #: Messages and relayed items that were dropped, by reason.
        self.dropped: Counter[str] = Counter()
        self._replays = Replays(MAX_AGE + MAX_AHEAD)
        #: Time of the last message of each type to a peer.
        self._sent: dict[tuple[int, Kind], int] = {}
        self._stamps: dict[int, int] = {}
        #: Approvals awaiting :meth:`confirmed`, with their time.
        self._unconfirmed: dict[int, int] = {}
        #: Peers that the registry did not confirm, and since when.
        self._doubts: dict[int, float] = {}

    # Calls of the operator

    def request(self, peer: int, justification: str, now: float) -> Effects:
        """Requests trust. No effect if the peer is trusted; a pending request of the peer makes the
        trust mutual at once.

        Raises:
            InvalidArgument: the peer is ourselves, or the justification has over 1,024 bytes.
        """
        if peer in (0, self.own):
            raise InvalidArgument("a node cannot ask itself for trust")
        text = messages.printable(justification)
        if len(text.encode()) > messages.MAX_JUSTIFICATION:
            raise InvalidArgument("justification too large", hint="use at most 1,024 bytes")
        rows = self.rows
        if peer in rows.trusted:
            return ()
        if (revoked := rows.revoked.get(peer)) is not None:
            rows.revoked[peer] = replace(revoked, until=revoked.at)
        if (pending := rows.pending.get(peer)) is not None:
            return self._approve(peer, pending.public_key, now, mutual=True)
        if len(rows.outgoing) >= MAX_OUTGOING and peer not in rows.outgoing:
            del rows.outgoing[min(rows.outgoing, key=lambda node: rows.outgoing[node].sent_at)]
        rows.outgoing[peer] = Outgoing(peer, int(now))
        return Persist(), self._send(peer, Kind.REQUEST, now, text)

    def undelivered(self, peer: int) -> Effects:
        """Withdraws our request, which reached neither the peer nor the registry."""
        if self.rows.outgoing.pop(peer, None) is None:
            return ()
        return (Persist(),)

    def approve(self, peer: int, now: float) -> Effects:
        """Approves a pending request; no effect without one."""
        pending = self.rows.pending.get(peer)
        if pending is None:
            return ()
        return self._approve(peer, pending.public_key, now, mutual=False)

    def reject(self, peer: int, reason: str, now: float) -> Effects:
        """Rejects a pending request; no effect without one."""
        if self.rows.pending.pop(peer, None) is None:
            return ()
        text = messages.cut(reason, messages.MAX_REASON)
        return Persist(), Respond(peer, accept=False), self._send(peer, Kind.REJECT, now, text)

    def revoke(self, peer: int, now: float) -> Effects:
        """Revokes a trust.

        Raises:
            NotFound: there is none.
        """
        if peer not in self.rows.trusted:
            raise NotFound(
                f"handshake revoke: node {peer} was not trusted",
                hint="list trusted nodes with: pilotctl trust",
            )
        self._forget(peer)
        self.rows.revoked[peer] = Revoked(peer, int(now), int(now) + COOLDOWN)
        message = self._send(peer, Kind.REVOKE, now, "trust revoked")
        event = Event("trust.revoked", peer, "operator")
        return Persist(), message, RevokeTrust(peer), Dismiss(peer), event

    # Messages on port 444

    def screen(self, message: TrustMessage, source: int, now: float) -> str:
        """Checks a message before its signature. Returns why it is dropped, or an empty text.
        ``source`` is the peer of the stream, authenticated by its tunnel.
        """
        text = messages.printable(message.text)
        if message.node_id != source or source in (0, self.own):
            return "source"
        if not (message.public_key and message.signature):
            return "unsigned"
        if now - message.timestamp > MAX_AGE:
            return "stale"
        if message.timestamp - now > MAX_AHEAD:
            return "future"
        if len(text.encode()) > messages.MAX_JUSTIFICATION:
            return "oversized"
        if self._replays.is_known(message, self.own):
            return "replayed"
        return "superseded" if self._replays.is_superseded(message) else ""

    def receive(
        self, message: TrustMessage, source: int, record: PeerRecord | None, now: float
    ) -> Effects:
        """Processes a message; ``record`` is the registry record of its sender."""
        problem = self.screen(message, source, now)
        if not problem and (record is None or record.public_key != message.public_key):
            problem = "key"
        if not problem and not messages.is_signed(message, self.own):
            problem = "signature"
        if problem or record is None:
            self.dropped[problem] += 1
            return ()
        self._replays.add(message, self.own, now)
        match message.kind:
            case Kind.REQUEST:
                return self._on_request(source, message.text, record, now, is_relayed=False)
            case Kind.ACCEPT:
                return self._on_approval(source, message.timestamp, record, now, is_relayed=False)
            case Kind.REJECT:
                return self._on_rejection(source, messages.printable(message.text))
            case Kind.REVOKE:
                return self._on_revocation(source, now)

    # Items relayed by the registry

    def relayed_request(
        self, peer: int, justification: str, record: PeerRecord | None, now: float
    ) -> Effects:
        """Processes a request from the registry's inbox."""
        if record is None or peer in (0, self.own):
            self.dropped["key" if record is None else "source"] += 1
            return ()
        return self._on_request(peer, justification, record, now, is_relayed=True)

    def relayed_response(
        self, peer: int, accept: bool, timestamp: int, record: PeerRecord | None, now: float
    ) -> Effects:
        """Processes an answer to our request from the registry's inbox."""
        if not accept:
            return self._on_rejection(peer, "")
        if record is None or peer in (0, self.own):
            self.dropped["key" if record is None else "source"] += 1
            return ()
        return self._on_approval(peer, timestamp, record, now, is_relayed=True)

    def relayed_revocation(self, peer: int, timestamp: int, now: float) -> Effects:
        """Processes a revocation relayed by the registry, which has dropped our consent as well.
        ``timestamp`` is its time; a trust established since stays.
        """
        row = self.rows.trusted.get(peer)
        if row is None or row.approved_at > timestamp:
            return ()
        self._forget(peer)
        self.rows.revoked[peer] = Revoked(peer, int(now), int(now))
        # Enforced before it is written down: the registry knows it already.
        return Dismiss(peer), Persist(), Event("trust.revoked_by_peer", peer, "registry")

    def confirmed(
        self, peer: int, is_active: bool | None, record: PeerRecord | None, now: float
    ) -> Effects:
        """The answer to :class:`Confirm`: whether the pair is active, or ``None`` from a registry
        that cannot tell."""
        timestamp = self._unconfirmed.pop(peer, 0)
        revoked = self.rows.revoked.get(peer)
        if peer not in self.rows.outgoing or record is None:
            return ()
        if is_active is None:
            is_active = revoked is None or timestamp > revoked.at
        if not is_active:
            self.dropped["stale_approval"] += 1
            return ()
        return self._trust(peer, record.public_key, now, mutual=True)

    def unsolicited(
        self, peer: int, is_pair: bool | None, record: PeerRecord | None, now: float
    ) -> Effects:
        """The answer to :class:`AskPair`: whether the registry has the consent of both, or ``None``
        from one that cannot tell; then the operator decides."""
        rows = self.rows
        if peer in rows.trusted or peer in rows.outgoing or record is None:
            return ()
        if is_pair and peer not in rows.revoked:
            return self._trust(peer, record.public_key, now, mutual=True, reason="restored")
        if is_pair is None:
            return self._wait(peer, "", record, now)
        return self._disown(peer, now)

    def checked(
        self, peer: int, is_active: bool | None, now: float, *, is_live: bool = True
    ) -> Effects:
        """Reconciles a trust with the registry: a live peer that does not report its consent for
        over a minute, although we report ours, has revoked it without reaching us.
        """
        row = self.rows.trusted.get(peer)
        if is_active or row is None:
            self._doubts.pop(peer, None)
            return ()
        if is_active is None or not is_live or now - row.approved_at < DOUBT:
            return ()
        if now - self._doubts.setdefault(peer, now) < DOUBT:
            return (ReportTrust(peer),)
        return self._lose(peer, now, "trust.revoked_by_peer", "registry")

    # Tunnels and registration

    def key_seen(self, peer: int, key: bytes, now: float) -> Effects:
        """A tunnel or the registry shows the peer's key: it is pinned, or a trust in another key
        ends."""
        row = self.rows.trusted.get(peer)
        if row is None or row.public_key == key:
            return ()
        if not row.public_key:
            self.rows.trusted[peer] = replace(row, public_key=key)
            return (Persist(),)
        return self._lose(peer, now, "trust.revoked", "key_changed")

    def is_trusted(self, peer: int) -> bool:
        """Whether the peer is trusted."""
        return peer in self.rows.trusted

    def is_cooling(self, peer: int, now: float) -> bool:
        """Whether a recent revocation prevents automatic approval."""
        revoked = self.rows.revoked.get(peer)
        return revoked is not None and now < revoked.until

    def registered(self, now: float) -> Effects:
        """After a registration: the registry may have forgotten what we reported."""
        reports = tuple(ReportTrust(peer) for peer in sorted(self.rows.trusted))
        cooling = sorted(peer for peer in self.rows.revoked if self.is_cooling(peer, now))
        return reports + tuple(RevokeTrust(peer) for peer in cooling)

    def expire(self, now: float) -> Effects:
        """Removes expired rows."""
        rows = self.rows
        self._replays.expire(now)
        oldest = now - LIFETIME
        kept = Rows(
            rows.trusted,
            {n: row for n, row in rows.pending.items() if row.received_at > oldest},
            {n: row for n, row in rows.outgoing.items() if row.sent_at > oldest},
            {n: row for n, row in rows.revoked.items() if row.at > oldest},
        )
        self._sent = {k: at for k, at in self._sent.items() if at > now - REPEAT}
        self._stamps = {n: at for n, at in self._stamps.items() if at > now - REPEAT}
        if kept == rows:
            return ()
        self.rows = kept
        return (Persist(),)

    # Rules

    def _on_request(
        self, peer: int, text: str, record: PeerRecord, now: float, *, is_relayed: bool
    ) -> Effects:
        rows = self.rows
        lost = self.key_seen(peer, record.public_key, now)
        if peer in rows.trusted:
            told = () if is_relayed else (self._send(peer, Kind.ACCEPT, now),)
            return *lost, Respond(peer, accept=True), *told
        if not self.is_cooling(peer, now):
            if peer in rows.outgoing:
                return self._approve(peer, record.public_key, now, mutual=True, reason="mutual")
            if shared := self.networks & record.networks - {0}:
                return self._approve(
                    peer, record.public_key, now, reason="same_network", network=min(shared)
                )
            if self.approves_all:
                return self._approve(peer, record.public_key, now, reason="all")
        return lost + self._wait(peer, text, record, now)

    def _wait(self, peer: int, text: str, record: PeerRecord, now: float) -> Effects:
        pending = self.rows.pending
        if len(pending) >= MAX_PENDING and peer not in pending:
            self.dropped["pending_full"] += 1
            return ()
        text = messages.cut(text, messages.MAX_JUSTIFICATION)
        before = pending.get(peer)
        if before is not None and before.justification == text:
            return ()
        pending[peer] = Pending(peer, record.public_key, text, int(now))
        return Persist(), Event("handshake.pending", peer)

    def _on_approval(
        self, peer: int, timestamp: int, record: PeerRecord, now: float, *, is_relayed: bool
    ) -> Effects:
        if peer in self.rows.trusted:
            return self.key_seen(peer, record.public_key, now)
        revoked = self.rows.revoked.get(peer)
        is_old = revoked is not None and timestamp <= revoked.at + MAX_AHEAD
        if peer in self.rows.outgoing:
            if is_relayed or is_old:
                # The approval may have been delayed beyond a later revocation, and clocks differ:
                # only the registry knows the order.
                self._unconfirmed[peer] = timestamp
                return (Confirm(peer),)
            return self._trust(peer, record.public_key, now, mutual=True)
        if revoked is None:
            # Peers offer their approval again after a restart of theirs, and our file may have lost
            # ours: only the registry knows whether we consented.
            return (AskPair(peer),)
        return self._disown(peer, now, is_known=is_old)

    def _disown(self, peer: int, now: float, *, is_known: bool = False) -> Effects:
        """Ends the one-sided trust of a peer. It is notified, unless it may know and have asked
        again since."""
        self.dropped["unsolicited"] += 1
        told: Effects = ()
        if not is_known and peer not in self.rows.pending:
            told = (self._send(peer, Kind.REVOKE, now),)
        return RevokeTrust(peer), *told

    def _on_rejection(self, peer: int, reason: str) -> Effects:
        if self.rows.outgoing.pop(peer, None) is None:
            return ()
        # Our request must not form a pair with an earlier approval.
        return Persist(), RevokeTrust(peer), Event("handshake.rejected", peer, reason)

    def _on_revocation(self, peer: int, now: float) -> Effects:
        if peer in self.rows.trusted:
            return self._lose(peer, now, "trust.revoked_by_peer", "")
        had = peer in self.rows.outgoing
        if not had and peer not in self.rows.pending:
            return ()
        self._forget(peer)
        self.rows.revoked[peer] = Revoked(peer, int(now), int(now))
        # A request of ours may be open at the registry and must not form a pair any more.
        withdrawn: Effects = (RevokeTrust(peer),) if had else ()
        return Persist(), *withdrawn, Event("trust.revoked_by_peer", peer)

    def _lose(self, peer: int, now: float, name: str, reason: str) -> Effects:
        self._forget(peer)
        self.rows.revoked[peer] = Revoked(peer, int(now), int(now))
        return Persist(), RevokeTrust(peer), Dismiss(peer), Event(name, peer, reason)

    def _forget(self, peer: int) -> None:
        for table in (self.rows.trusted, self.rows.pending, self.rows.outgoing, self._doubts):
            table.pop(peer, None)

    def _approve(
        self,
        peer: int,
        key: bytes,
        now: float,
        *,
        mutual: bool = False,
        reason: str = "",
        network: int = 0,
    ) -> Effects:
        persist, *rest = self._trust(peer, key, now, mutual=mutual, reason=reason, network=network)
        # The peer awaits this answer, so it is sent before the report.
        return persist, Respond(peer, accept=True), *rest, self._send(peer, Kind.ACCEPT, now)

    def _trust(
        self,
        peer: int,
        key: bytes,
        now: float,
        *,
        mutual: bool,
        reason: str = "",
        network: int = 0,
    ) -> Effects:
        self._forget(peer)
        self.rows.revoked.pop(peer, None)
        self.rows.trusted[peer] = Trusted(peer, key, int(now), mutual, network)
        is_automatic = reason not in {"", "restored"}
        name = "handshake.auto_approved" if is_automatic else "trust.established"
        return Persist(), Admit(peer), ReportTrust(peer), Event(name, peer, reason)

    def _send(self, peer: int, kind: Kind, now: float, text: str = "") -> Send:
        # Peers order our messages by whole seconds, and refuse timestamps far ahead.
        timestamp = min(max(int(now), self._stamps.get(peer, 0) + 1), int(now) + MAX_AHEAD)
        self._stamps[peer] = timestamp
        is_repeat = now - self._sent.get((peer, kind), -REPEAT) < REPEAT
        self._sent[peer, kind] = int(now)
        return Send(peer, kind, timestamp, text, is_repeat)
