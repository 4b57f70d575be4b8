"""Handshake messages as bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotstack.daemon.identity import Identity
from pilotstack.trust import messages
from pilotstack.trust.messages import MAX_SEGMENT, Kind, TrustMessage

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "services.json").read_text())[
    "trust_handshake"
]
SEED = bytes.fromhex(VECTORS["ed25519_seed_hex"])


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: row["type"])
def test_recorded_messages_round_trip(row: dict[str, str]) -> None:
    wire = bytes.fromhex(row["wire_hex"])
    message = messages.decode(wire)
    sender, receiver = VECTORS["sender_node_id"], VECTORS["receiver_node_id"]
    assert message.kind == row["type"]
    assert message.node_id == sender
    assert messages.is_signed(message, receiver)
    assert not messages.is_signed(message, receiver + 1)
    assert Identity(SEED).sign(messages.challenge(sender, receiver)) == message.signature
    assert messages.encode(message) == wire


def test_escapes_of_existing_senders_are_decoded() -> None:
    text = VECTORS["go_json_escaping_example_utf8"].encode()
    assert messages.decode(text).text == "a<b & c>d \u2028 é"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"type":"handshake_hug","node_id":1}',
        b'{"type":"handshake_request","public_key":"AAAA"}',
        b'{"type":"handshake_request","signature":"!"}',
        b'{"type":"handshake_request","node_id":1,"justification":"\xff"}',
        b"[" * 60_000,
    ],
)
def test_invalid_messages_raise_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (texts are of libraries)
        messages.decode(data)


def test_members_of_wrong_types_count_as_absent() -> None:
    message = messages.decode(b'{"type":"handshake_accept","node_id":true,"timestamp":"1"}')
    assert message == TrustMessage(Kind.ACCEPT, 0, b"", b"", 0, "")


def test_displayed_text_is_printable_and_bounded() -> None:
    assert messages.printable("\x1b[31mred\r\n\u202eevil\u200b") == "[31mredevil"
    assert messages.cut("é" * 600, 1024) == "é" * 512
    assert messages.cut("x\ud800y", 10) == "xy"


def test_all_messages_but_long_requests_fit_one_legacy_segment() -> None:
    reason = messages.cut("\x7f" + '"' * 1000, messages.MAX_REASON)
    message = TrustMessage(Kind.REJECT, 2**32 - 1, b"k" * 32, b"s" * 64, 2**40, reason)
    assert len(messages.encode(message)) <= MAX_SEGMENT
