"""Events as bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services import vectors

from pilotstack.services.event_stream import control
from pilotstack.services.event_stream.codec import Decoder, Event, EventError, encode, text_of

VECTORS = vectors.of("event_stream")


@pytest.mark.parametrize("row", VECTORS["events"], ids=lambda row: row["name"])
def test_recorded_events_are_read_and_written(row: dict[str, Any]) -> None:
    wire = bytes.fromhex(row["wire_hex"])
    event = Event(row["topic"], bytes.fromhex(row["payload_hex"]))
    assert encode(event) == wire
    (raw,) = Decoder().feed(wire)
    assert (text_of(raw.topic), raw.payload, raw.wire) == (event.topic, event.payload, wire)


@pytest.mark.parametrize("row", VECTORS["malformed"], ids=lambda row: row["name"])
def test_recorded_malformed_events_are_refused(row: dict[str, Any]) -> None:
    def read() -> None:
        for raw in Decoder().feed(bytes.fromhex(row["wire_hex"])):
            text_of(raw.topic)

    expected = row["g1_read_error"] or "the topic is not UTF-8"
    with pytest.raises(EventError, match=expected):
        read()


def test_what_is_too_long_is_not_written() -> None:
    for event in (Event("x" * 1025), Event("é" * 513), Event("t", bytes((16 << 20) + 1))):
        with pytest.raises(EventError):
            encode(event)


EVENTS = st.lists(st.builds(Event, st.text(max_size=20), st.binary(max_size=50)), max_size=8)


@given(EVENTS, st.lists(st.integers(1, 30), max_size=40))
def test_pieces_give_the_same_events(events: list[Event], cuts: list[int]) -> None:
    data = b"".join(map(encode, events))
    held: list[int] = []
    decoder = Decoder(held.append)
    got = []
    for cut in [*cuts, len(data)]:
        got += decoder.feed(data[:cut])
        data = data[cut:]
    assert [Event(text_of(raw.topic), raw.payload) for raw in got] == events
    assert decoder.is_empty
    assert sum(held) == 0


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(EventError):
        for raw in Decoder().feed(data):
            text_of(raw.topic)
    control.is_hello(data)
    for topic in (control.WELCOME, control.LOST, control.FLUSH, control.FLUSHED, "x"):
        control.parse(topic, data)


def test_memory_of_incomplete_events_is_told() -> None:
    held: list[int] = []
    decoder = Decoder(held.append)
    wire = encode(Event("topic", bytes(100)))
    decoder.feed(wire[:60])
    assert sum(held) == 60
    decoder.close()
    assert sum(held) == 0


@pytest.mark.parametrize(
    "message",
    [
        control.Welcome(4096, 1 << 20),
        control.Lost(3, 10),
        control.Flush(1),
        control.Flushed(1, 100, 2),
    ],
)
def test_messages_of_ours_are_read_as_they_were_written(message: control.Control) -> None:
    (raw,) = Decoder().feed(control.wire_of(message))
    assert control.parse(text_of(raw.topic), raw.payload) == message


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b'{"pilotstack":"1"}', b'{"pilotstack":0}', b"[" * 1000, b" " * 2000],
)
def test_what_is_no_hello_is_none(payload: bytes) -> None:
    assert not control.is_hello(payload)
    assert control.is_hello(control.HELLO)
