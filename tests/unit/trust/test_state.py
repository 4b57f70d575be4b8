"""The rules of ``docs/explanation/trust.md``, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.trust.model import START, World, message_of, record_of

from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.trust.messages import MAX_JUSTIFICATION, Kind
from pilotstack.trust.records import (
    Admit,
    AskPair,
    Confirm,
    Dismiss,
    Event,
    Outgoing,
    PeerRecord,
    Pending,
    Persist,
    ReportTrust,
    Respond,
    RevokeTrust,
    Send,
    Trusted,
)
from pilotstack.trust.replays import MAX_REPLAYS_PER_PEER
from pilotstack.trust.state import COOLDOWN, DOUBT, LIFETIME, MAX_PENDING, Rows, Trust

KEY = record_of(2).public_key


def trust_of(rows: Rows | None = None, *networks: int) -> Trust:
    trust = Trust(rows)
    trust.own = 1
    trust.networks = frozenset({0, *networks})
    return trust


def trusting(peer: int = 2, key: bytes = KEY) -> Trust:
    return trust_of(Rows.of(trusted=[Trusted(peer, key, int(START), mutual=True)]))


def asking(peer: int = 2) -> Trust:
    trust = trust_of()
    trust.request(peer, "", START)
    return trust


def receive(
    trust: Trust, kind: Kind, now: float = START, text: str = "", peer: int = 2
) -> list[Any]:
    message = message_of(peer, 1, kind, now, text)
    return list(trust.receive(message, peer, record_of(peer), now))


# Acceptance checks


@pytest.mark.parametrize(
    ("change", "source", "record", "problem"),
    [
        ({}, 2, record_of(2), ""),
        ({"timestamp": int(START) - 300}, 2, record_of(2), ""),
        ({"timestamp": int(START) - 301}, 2, record_of(2), "stale"),
        ({"timestamp": int(START) + 30}, 2, record_of(2), ""),
        ({"timestamp": int(START) + 31}, 2, record_of(2), "future"),
        ({}, 3, record_of(2), "source"),
        ({"node_id": 3}, 2, record_of(2), "source"),
        ({"node_id": 1}, 1, record_of(1), "source"),
        ({"public_key": b""}, 2, record_of(2), "unsigned"),
        ({"signature": b""}, 2, record_of(2), "unsigned"),
        ({"signature": bytes(64)}, 2, record_of(2), "signature"),
        ({}, 2, record_of(3), "key"),
        ({}, 2, None, "key"),
        ({"public_key": record_of(3).public_key}, 2, record_of(3), "signature"),
        ({"text": "é" * 512}, 2, record_of(2), ""),
        ({"text": "é" * 513}, 2, record_of(2), "oversized"),
        ({"text": "\x1b" * 2000}, 2, record_of(2), ""),
    ],
)
@pytest.mark.parametrize("kind", list(Kind))
def test_a_message_is_accepted_or_dropped_with_a_reason(
    kind: Kind, change: dict[str, Any], source: int, record: PeerRecord | None, problem: str
) -> None:
    trust = asking()
    message = replace(message_of(2, 1, kind), **change)
    effects = trust.receive(message, source, record, START)
    assert dict(trust.dropped) == ({problem: 1} if problem else {})
    assert bool(effects) == (not problem)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_same_message_is_accepted_once(kind: Kind) -> None:
    trust = asking()
    message = message_of(2, 1, kind)
    trust.receive(message, 2, record_of(2), START)
    rows = repr(trust.rows)
    assert trust.receive(message, 2, record_of(2), START + 1) == ()
    assert (trust.dropped["replayed"], repr(trust.rows)) == (1, rows)


def test_the_same_text_a_second_later_is_no_replay() -> None:
    trust = asking()
    receive(trust, Kind.REJECT)
    trust.request(2, "", START)
    receive(trust, Kind.ACCEPT, START + 1)
    trust.revoke(2, START + 2)
    assert receive(trust, Kind.REQUEST, START + 3)
    assert 2 in trust.rows.pending


def test_superseded_messages_are_dropped() -> None:
    trust = asking()
    receive(trust, Kind.REVOKE, START + 2)
    trust.request(2, "", START + 2)
    assert receive(trust, Kind.ACCEPT, START + 1) == []
    assert trust.dropped["superseded"] == 1
    assert not trust.is_trusted(2)


def test_a_forged_message_does_not_block_the_real_one() -> None:
    trust = asking()
    message = message_of(2, 1, Kind.ACCEPT)
    trust.receive(replace(message, public_key=record_of(3).public_key), 2, record_of(2), START)
    trust.receive(message, 2, record_of(2), START)
    assert trust.is_trusted(2)


def test_remembered_messages_are_bounded_per_peer() -> None:
    trust = trust_of()
    for number in range(MAX_REPLAYS_PER_PEER + 20):
        receive(trust, Kind.REJECT, START + number / 1000 + number // 4)
    assert len(trust._replays._seen) <= MAX_REPLAYS_PER_PEER
    trust.expire(START + 2000)
    assert not trust._replays._seen
    assert not trust._replays._newest


# Requests


def test_a_request_awaits_the_operator() -> None:
    trust = trust_of()
    effects = receive(trust, Kind.REQUEST, text="let me\x1b in")
    assert effects == [Persist(), Event("handshake.pending", 2)]
    assert trust.rows.pending == {2: Pending(2, KEY, "let me in", int(START))}
    assert not trust.is_trusted(2)


def test_requests_of_both_are_mutual() -> None:
    trust = asking()
    effects = receive(trust, Kind.REQUEST)
    assert effects == [
        Persist(),
        Respond(2, accept=True),
        Admit(2),
        ReportTrust(2),
        Event("handshake.auto_approved", 2, "mutual"),
        Send(2, Kind.ACCEPT, int(START) + 1),
    ]
    assert trust.rows.trusted == {2: Trusted(2, KEY, int(START), mutual=True)}
    assert not trust.rows.outgoing


def test_a_shared_network_replaces_an_approval() -> None:
    trust = trust_of(None, 7, 9)
    message = message_of(2, 1, Kind.REQUEST)
    effects = trust.receive(message, 2, record_of(2, 0, 9, 8, 7), START)
    assert Event("handshake.auto_approved", 2, "same_network") in effects
    assert trust.rows.trusted[2] == Trusted(2, KEY, int(START), mutual=False, network=7)
    trust = trust_of(None, 7)
    trust.receive(message, 2, record_of(2, 0, 8), START)
    assert not trust.is_trusted(2)


def test_a_repeated_request_of_a_trusted_peer_is_answered_again() -> None:
    trust = trusting()
    before = repr(trust.rows)
    effects = receive(trust, Kind.REQUEST, START + 5)
    assert effects == [Respond(2, accept=True), Send(2, Kind.ACCEPT, int(START) + 5)]
    assert repr(trust.rows) == before


def test_a_request_under_another_key_ends_the_trust_and_waits() -> None:
    trust = trusting(key=record_of(9).public_key)
    effects = receive(trust, Kind.REQUEST)
    assert Dismiss(2) in effects
    assert Event("trust.revoked", 2, "key_changed") in effects
    assert (trust.is_trusted(2), 2 in trust.rows.pending) == (False, True)


def test_pending_requests_are_bounded_and_expire() -> None:
    trust = trust_of()
    for peer in range(2, MAX_PENDING + 2):
        trust.relayed_request(peer, "", record_of(peer % 250 + 1), START)
    assert 9 in trust.rows.pending
    assert receive(trust, Kind.REQUEST, peer=9) == []
    assert trust.relayed_request(999, "", record_of(9), START) == ()
    assert (len(trust.rows.pending), trust.dropped["pending_full"]) == (MAX_PENDING, 1)
    assert trust.expire(START + LIFETIME) == (Persist(),)
    assert not trust.rows.pending


def test_a_repeated_pending_request_raises_no_event() -> None:
    trust = trust_of()
    assert trust.relayed_request(2, "x", record_of(2), START)
    assert trust.relayed_request(2, "x", record_of(2), START + 5) == ()
    assert trust.relayed_request(2, "y", record_of(2), START + 5)


def test_a_second_request_renews_the_first() -> None:
    trust = asking()
    persist, sent = trust.request(2, "please", START + 3)
    assert (persist, sent) == (Persist(), Send(2, Kind.REQUEST, int(START) + 3, "please", True))
    assert trust.rows.outgoing[2] == Outgoing(2, int(START) + 3)
    assert trusting().request(2, "", START) == ()


def test_requesting_a_requester_is_an_approval() -> None:
    trust = trust_of()
    receive(trust, Kind.REQUEST)
    effects = trust.request(2, "", START)
    assert Respond(2, accept=True) in effects
    assert trust.rows.trusted[2].mutual


@pytest.mark.parametrize(("peer", "text"), [(1, ""), (0, ""), (2, "x" * (MAX_JUSTIFICATION + 1))])
def test_invalid_requests_are_refused(peer: int, text: str) -> None:
    trust = trust_of()
    with pytest.raises(InvalidArgument):
        trust.request(peer, text, START)
    assert not trust.rows.outgoing


def test_an_undelivered_request_is_removed() -> None:
    trust = asking()
    assert trust.undelivered(2) == (Persist(),)
    assert receive(trust, Kind.ACCEPT) == [AskPair(2)]
    assert not trust.is_trusted(2)


# Answers


def test_an_approval_needs_a_request_of_ours() -> None:
    trust = trust_of()
    assert receive(trust, Kind.ACCEPT) == [AskPair(2)]
    effects = trust.unsolicited(2, False, record_of(2), START)
    assert effects == (RevokeTrust(2), Send(2, Kind.REVOKE, int(START)))
    assert (trust.is_trusted(2), trust.dropped["unsolicited"]) == (False, 1)
    trust = asking()
    assert receive(trust, Kind.ACCEPT) == [
        Persist(),
        Admit(2),
        ReportTrust(2),
        Event("trust.established", 2),
    ]
    assert trust.rows.trusted == {2: Trusted(2, KEY, int(START), mutual=True)}


def test_an_approval_offered_again_restores_a_pair_that_the_registry_has() -> None:
    trust = trust_of()
    assert receive(trust, Kind.ACCEPT) == [AskPair(2)]
    assert list(trust.unsolicited(2, True, record_of(2), START)) == [
        Persist(),
        Admit(2),
        ReportTrust(2),
        Event("trust.established", 2, "restored"),
    ]
    assert trust.rows.trusted == {2: Trusted(2, KEY, int(START), mutual=True)}
    # A registry that cannot tell leaves it to the operator.
    trust = trust_of()
    assert trust.unsolicited(2, None, record_of(2), START)[0] == Persist()
    assert (trust.rows.trusted, list(trust.rows.pending)) == ({}, [2])


def test_an_approval_does_not_restore_what_we_revoked() -> None:
    trust = trusting()
    trust.revoke(2, START - 60)
    assert receive(trust, Kind.ACCEPT)[0] == RevokeTrust(2)
    assert trust.unsolicited(2, True, record_of(2), START)[0] == RevokeTrust(2)


def test_a_rejection_ends_the_request_and_no_trust() -> None:
    trust = asking()
    effects = receive(trust, Kind.REJECT, text="no\x07")
    assert effects == [Persist(), RevokeTrust(2), Event("handshake.rejected", 2, "no")]
    assert receive(trusting(), Kind.REJECT) == []


def test_the_operator_approves_and_rejects() -> None:
    trust = trust_of()
    receive(trust, Kind.REQUEST)
    assert trust.approve(2, START) == (
        Persist(),
        Respond(2, accept=True),
        Admit(2),
        ReportTrust(2),
        Event("trust.established", 2),
        Send(2, Kind.ACCEPT, int(START)),
    )
    assert not trust.rows.trusted[2].mutual
    receive(trust, Kind.REQUEST, peer=3)
    effects = trust.reject(3, "r" * 999, START)
    assert effects[:2] == (Persist(), Respond(3, accept=False))
    assert isinstance(effects[2], Send)
    assert effects[2].text == "r" * 256
    assert trust.approve(3, START) == trust.reject(3, "", START) == ()


# Revocation


def test_a_revocation_is_sent_before_the_tunnel_is_dropped() -> None:
    trust = trusting()
    assert trust.revoke(2, START) == (
        Persist(),
        Send(2, Kind.REVOKE, int(START), "trust revoked"),
        RevokeTrust(2),
        Dismiss(2),
        Event("trust.revoked", 2, "operator"),
    )
    with pytest.raises(NotFound, match="handshake revoke: node 2 was not trusted"):
        trust.revoke(2, START)


def test_a_revocation_of_the_peer_is_followed() -> None:
    trust = trusting()
    assert receive(trust, Kind.REVOKE) == [
        Persist(),
        RevokeTrust(2),
        Dismiss(2),
        Event("trust.revoked_by_peer", 2),
    ]
    assert receive(trust, Kind.REVOKE, START + 1) == []


def test_no_automatic_approval_during_the_cooldown() -> None:
    trust = trust_of(Rows.of(trusted=[Trusted(2, KEY, 0, mutual=True)]), 7)
    trust.revoke(2, START)
    trust.receive(message_of(2, 1, Kind.REQUEST), 2, record_of(2, 7), START)
    assert (trust.is_trusted(2), 2 in trust.rows.pending) == (False, True)
    trust.reject(2, "", START)
    later = START + COOLDOWN
    trust.receive(message_of(2, 1, Kind.REQUEST, later), 2, record_of(2, 7), later)
    assert trust.is_trusted(2)


def test_who_approves_all_grants_requests_of_both_ways_but_not_during_the_cooldown() -> None:
    for is_relayed in (False, True):
        trust = trust_of()
        trust.approves_all = True
        if is_relayed:
            trust.relayed_request(2, "", record_of(2), START)
        else:
            receive(trust, Kind.REQUEST)
        assert trust.rows.trusted == {2: Trusted(2, KEY, int(START), mutual=False)}
        trust.revoke(2, START + 1)
        trust.relayed_request(2, "", record_of(2), START + 2)
        assert (trust.rows.trusted, list(trust.rows.pending)) == ({}, [2])


def test_an_explicit_request_ends_the_cooldown() -> None:
    trust = trusting()
    trust.revoke(2, START)
    assert trust.is_cooling(2, START)
    trust.request(2, "", START + 1)
    assert not trust.is_cooling(2, START + 1)
    receive(trust, Kind.REQUEST, START + 2)
    assert trust.is_trusted(2)


@pytest.mark.parametrize(
    ("is_active", "is_later", "is_trusted"),
    [
        (True, False, True),
        (False, True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_a_relayed_approval_counts_if_the_registry_knows_the_pair(
    is_active: bool | None, is_later: bool, is_trusted: bool
) -> None:
    trust = trusting()
    trust.revoke(2, START)
    trust.request(2, "", START + 10)
    at = int(START) + (5 if is_later else -5)
    effects = trust.relayed_response(2, True, at, record_of(2), START + 11)
    assert effects == (Confirm(2),)
    trust.confirmed(2, is_active, record_of(2), START + 11)
    assert trust.is_trusted(2) == is_trusted
    assert trust.dropped["stale_approval"] == (not is_trusted)


def test_a_stale_relayed_approval_revives_nothing() -> None:
    trust = trusting()
    trust.revoke(2, START)
    effects = trust.relayed_response(2, True, int(START) - 1, record_of(2), START + 1)
    assert effects == (RevokeTrust(2),)
    assert not trust.is_trusted(2)


def test_a_live_peer_that_does_not_confirm_is_dropped() -> None:
    trust = trusting()
    now = START + DOUBT
    assert trust.checked(2, None, now) == ()
    assert trust.checked(2, False, now, is_live=False) == ()
    assert trust.checked(2, False, now) == (ReportTrust(2),)
    assert trust.checked(2, True, now + 1) == ()
    assert trust.checked(2, False, now + DOUBT) == (ReportTrust(2),)
    effects = trust.checked(2, False, now + 2 * DOUBT)
    assert Event("trust.revoked_by_peer", 2, "registry") in effects
    assert not trust.is_trusted(2)


def test_messages_of_one_second_are_in_order_and_never_too_far_ahead() -> None:
    trust = trust_of()
    stamps = []
    for _ in range(40):
        receive_request = trust.relayed_request(2, "", record_of(2), START)
        assert receive_request
        (*_, sent) = trust.reject(2, "", START)
        assert isinstance(sent, Send)
        stamps.append(sent.timestamp)
    assert stamps == [min(int(START) + n, int(START) + 30) for n in range(40)]


# Keys and registration


def test_a_key_is_pinned_on_first_use() -> None:
    trust = trusting(key=b"")
    assert trust.key_seen(2, KEY, START) == (Persist(),)
    assert trust.key_seen(2, KEY, START) == ()
    effects = trust.key_seen(2, record_of(3).public_key, START)
    assert effects[-1] == Event("trust.revoked", 2, "key_changed")
    assert not trust.is_trusted(2)
    assert trust.key_seen(5, KEY, START) == ()


def test_trust_is_reported_after_a_registration_and_revocations_too() -> None:
    rows = Rows.of(trusted=[Trusted(n, KEY, 0, mutual=True) for n in (4, 2, 3)])
    trust = trust_of(rows)
    trust.revoke(3, START)
    assert trust.registered(START) == (ReportTrust(2), ReportTrust(4), RevokeTrust(3))
    assert trust.registered(START + COOLDOWN) == (ReportTrust(2), ReportTrust(4))


# Between nodes


def test_the_flags_after_a_manual_approval_are_those_of_existing_nodes() -> None:
    world = World(1, 2)
    world.carry_out(1, world.nodes[1].request(2, "hi", world.now))
    world.deliver_all()
    world.carry_out(2, world.nodes[2].approve(1, world.now))
    world.deliver_all()
    assert world.nodes[1].rows.trusted[2].mutual
    assert not world.nodes[2].rows.trusted[1].mutual
    assert world.registry.is_active(1, 2)


def test_a_relayed_handshake_needs_no_channel() -> None:
    world = World(1, 2)
    world.is_direct = False
    world.carry_out(1, world.nodes[1].request(2, "hi", world.now))
    world.channel.clear()
    world.poll(2)
    assert world.nodes[2].rows.pending[1].public_key == record_of(1).public_key
    world.carry_out(2, world.nodes[2].approve(1, world.now))
    world.channel.clear()
    world.poll(1)
    assert world.nodes[1].is_trusted(2)
    assert world.nodes[2].is_trusted(1)
