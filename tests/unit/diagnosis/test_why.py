"""Verdicts from facts: each cause alone, and which comes first when several hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.diagnosis.why import Facts, Stream, explain, stream_of
from pilotstack.ipc.answers import CandidateInfo, ConnectionInfo, PeerInfo
from pilotstack.types import Address

UP = PeerInfo(2, authenticated=True, path="direct", rtt_ms=20.0, candidates=())
RELAYED = PeerInfo(
    2,
    authenticated=True,
    path="relay",
    relay=True,
    beacon="192.0.2.1:9001",
    candidates=(CandidateInfo("192.0.2.9:1", reason="no answer"),),
)
IDLE = Stream(7, 80, 0.0, 0.0, 0, 0, 0.0, 0.0, 0.0, 20.0, 65_536)
KNOWN = Facts("agent-b", Address(0, 2), is_public=True, peer=UP, port=80)
PRIVATE = replace(KNOWN, is_public=False)
GONE = replace(KNOWN, tunnel_error="timeout", peer=None)


def stream(**members: Any) -> tuple[Stream, ...]:
    return (msgspec.structs.replace(IDLE, sent_per_second=1000.0, **members),)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(KNOWN, is_self=True), "itself"),
        (Facts("nobody", is_unknown=True), "unknown"),
        (Facts("agent-b", is_unknown=True, is_trusted=True), "asleep"),
        (replace(GONE, is_offline=True), "asleep"),
        (replace(GONE, silent_for=91.0), "asleep"),
        (replace(GONE, silent_for=30.0), "unreachable"),
        (replace(KNOWN, dial_error="timeout"), "unreachable"),
        (replace(KNOWN, dial_error="connection_refused"), "refused"),
        (replace(GONE, is_public=False), "private"),
        (replace(GONE, is_public=False, shares_network=True), "unreachable"),
        (replace(GONE, is_public=False, is_trusted=True), "untrusted"),
        (replace(GONE, is_public=False, is_waiting=True), "untrusted"),
        (replace(PRIVATE, dial_error="timeout"), "untrusted"),
        (KNOWN, "well"),
        (replace(KNOWN, peer=RELAYED), "relayed"),
        (replace(KNOWN, streams=stream()), "application_limited"),
        (replace(KNOWN, streams=stream(by_peer_window=0.8)), "receive_window"),
        (replace(KNOWN, streams=stream(by_own_reader=0.8)), "not_reading"),
        (replace(KNOWN, streams=stream(by_congestion_window=0.8)), "congestion_window"),
        (replace(KNOWN, streams=stream(by_congestion_window=0.3)), "application_limited"),
        (replace(KNOWN, streams=stream(segments=100, retransmitted=5)), "lossy"),
        (replace(KNOWN, streams=stream(segments=10, retransmitted=5)), "application_limited"),
        (replace(KNOWN, streams=stream(), cpu=0.97), "cpu"),
        # Several at once.
        (replace(KNOWN, peer=RELAYED, streams=stream(by_congestion_window=1.0)), "relayed"),
        (replace(KNOWN, streams=stream(by_peer_window=1.0), cpu=1.0), "receive_window"),
        (
            replace(
                KNOWN,
                streams=stream(segments=100, retransmitted=5, by_congestion_window=1.0),
            ),
            "lossy",
        ),
    ],
)
def test_causes(facts: Facts, code: str) -> None:
    verdict = explain(facts)
    assert verdict.code == code
    assert verdict.text.endswith(".")
    assert facts.target in verdict.text
    assert verdict.fix or code == "itself"


def row(**members: Any) -> ConnectionInfo:
    common: dict[str, Any] = {
        "state": "ESTABLISHED",
        "remote_addr": Address(0, 2),
        "id": 7,
        "local_port": 49_152,
        "remote_port": 80,
        "max_segment": 1000,
        "cong_win": 10_000,
        "peer_recv_win": 64_000,
        "recv_win": 64_000,
    }
    return ConnectionInfo(**(common | members))


def test_a_stream_is_what_held_it_up() -> None:
    rows = [
        row(peer_recv_win=0, bytes_sent=1000, segs_sent=1),
        row(in_flight=9_500, bytes_sent=2000, segs_sent=3, retransmits=2, spurious_retx=1),
        row(in_flight=9_500, recv_win=0, bytes_sent=5000, segs_sent=9, fast_retx=3),
        row(in_flight=5000, peer_recv_win=5500, bytes_sent=9000, bytes_recv=10, segs_sent=12),
    ]
    found = stream_of(rows, 2.0)
    assert (found.by_peer_window, found.by_congestion_window, found.by_own_reader) == (
        *(0.5, 0.5, 0.25),
    )
    assert (found.sent_per_second, found.received_per_second) == (4000.0, 5.0)
    assert (found.segments, found.retransmitted) == (11, 0)


@given(
    st.builds(
        Facts,
        st.text(max_size=9),
        is_public=st.none() | st.booleans(),
        is_unknown=st.booleans(),
        is_trusted=st.booleans(),
        is_waiting=st.booleans(),
        shares_network=st.booleans(),
        silent_for=st.none() | st.floats(0, 1e9),
        tunnel_error=st.sampled_from(["", "timeout", "connection_failed"]),
        dial_error=st.sampled_from(["", "timeout", "connection_refused"]),
        peer=st.sampled_from([None, UP, RELAYED, PeerInfo(2)]),
        cpu=st.none() | st.floats(0, 4),
    )
)
def test_there_is_always_one_verdict(facts: Facts) -> None:
    verdict = explain(facts)
    has_failed = bool(facts.is_unknown or facts.tunnel_error or facts.dial_error)
    assert verdict.code
    assert verdict.is_unreachable is (has_failed or verdict.code == "untrusted")
