"""Frames of the data exchange as bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services import vectors

from pilotstack.services.data_exchange import bulk, filestream, frames
from pilotstack.services.data_exchange.frames import Frame, FrameError, FrameType, Header, Tag

VECTORS = vectors.of("data_exchange")


def read(wire: bytes) -> tuple[Header, bytes]:
    header = frames.parse_header(wire[: frames.HEADER_LEN])
    payload = wire[frames.HEADER_LEN :]
    assert header.length == len(payload)
    return header, payload


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_recorded_frames_are_read_and_written(row: dict[str, Any]) -> None:
    wire = bytes.fromhex(row["wire_hex"])
    header, payload = read(wire)
    assert (header.type, frames.type_name(header.type)) == (
        row["type"],
        # Newer nodes have a name for what the older one calls unknown.
        "GOVERNED_FILESTREAM" if row["type"] == 9 else row["type_name"],
    )
    data = payload
    if header.type == FrameType.FILE:
        name, data = frames.split_file(payload)
        assert name.decode() == row["filename"] == row["g1_read"]["filename"]
        assert frames.file_payload(row["filename"], data) == payload
    assert data.hex() == row["payload_hex"]
    assert frames.encode(header.type, payload) == wire
    if header.type != 9:
        assert frames.ack(header.type, len(data)) == row["g1_daemon_ack_text"]


@pytest.mark.parametrize(
    "row", [row for row in VECTORS["malformed"] if "g1_read" in row], ids=lambda row: row["name"]
)
def test_file_payloads_without_a_usable_name_are_all_data(row: dict[str, Any]) -> None:
    _, payload = read(bytes.fromhex(row["wire_hex"]))
    name, data = frames.split_file(payload)
    if row["g1_read"]["filename"]:
        assert name == payload[2:]
        assert not data
    else:
        assert (name, data.hex()) == (b"", row["g1_read"]["payload_hex"])


@pytest.mark.parametrize(
    "row", [row for row in VECTORS["g2_only"] if row["type"] == 10], ids=lambda row: row["name"]
)
def test_recorded_tags_are_read_and_written(row: dict[str, Any]) -> None:
    wire = bytes.fromhex(row["wire_hex"])
    _, payload = read(wire)
    head, inner = frames.split_tagged(payload)
    assert (head.inner_type, inner.hex()) == (row["inner_type"], row["inner_payload_hex"])
    again = frames.tagged(head.tag, Frame(head.inner_type, inner))
    assert frames.encode(again.type, again.payload) == wire


def test_a_recorded_trace_is_read_and_written() -> None:
    row = next(row for row in VECTORS["g2_only"] if row["name"] == "trace")
    wire = bytes.fromhex(row["wire_hex"])
    _, payload = read(wire)
    trace = frames.parse_trace(payload)
    assert (trace.inner_type, trace.sent_ns) == (row["inner_type"], row["sent_at_ns"])
    inner = payload[frames.TRACE_LEN :]
    assert inner.hex() == row["inner_payload_hex"]
    again = frames.trace(Frame(trace.inner_type, inner), trace.sent_ns)
    assert frames.encode(again.type, again.payload) == wire


def test_the_recorded_stream_of_a_file_is_read_and_written() -> None:
    row = next(row for row in VECTORS["g2_only"] if row["name"] == "filestream_transcript")
    kinds = []
    for step in row["steps"]:
        for side in ("send_wire_hex", "reply_wire_hex"):
            wire = bytes.fromhex(step[side])
            header, payload = read(wire)
            assert header.type == FrameType.FILESTREAM
            message = filestream.parse(payload)
            kinds.append(type(message))
            assert message.id.hex() == row["transfer_id_hex"]
            assert frames.encode(FrameType.FILESTREAM, filestream.encode(message)) == wire
    assert filestream.Init in kinds
    assert filestream.Complete in kinds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ACK TEXT 5 bytes", frames.Ack("TEXT", 5)),
        ("ACK TEXT 12 bytes (duplicate)", frames.Ack("TEXT", 12, is_duplicate=True)),
        ("ACK UNKNOWN(10) 38 bytes", frames.Ack("UNKNOWN(10)", 38)),
        (
            "ERR FILE save failed: quota\nexceeded",
            frames.Ack("FILE", reason="quota\nexceeded"),
        ),
        ("ERR trace parse: short", frames.Ack("", reason="trace parse: short")),
        ("hello", None),
        ("ack: received", None),
        ("ACK TEXT 99999999999999999999 bytes", None),
    ],
)
def test_answers_are_understood_or_left_alone(text: str, expected: frames.Ack | None) -> None:
    assert frames.parse_ack(Frame(FrameType.TEXT, text.encode())) == expected
    assert frames.parse_ack(Frame(FrameType.JSON, text.encode())) is None


@pytest.mark.parametrize("generation", ["g1-g1", "g2-g2"])
def test_recorded_answers_of_both_generations_are_understood(generation: str) -> None:
    rows = vectors.of("live_transcripts")["pairs"][generation]
    seen = 0
    for row in rows:
        if row.get("port") != 1001 or not row.get("reply_hex"):
            continue
        data = bytes.fromhex(row["reply_hex"])
        while data:
            header = frames.parse_header(data[: frames.HEADER_LEN])
            payload = data[frames.HEADER_LEN : frames.HEADER_LEN + header.length]
            data = data[frames.HEADER_LEN + header.length :]
            assert frames.encode(header.type, payload)[frames.HEADER_LEN :] == payload
            seen += 1
            if header.type == FrameType.FILESTREAM:
                assert filestream.encode(filestream.parse(payload)) == payload
            elif header.type == FrameType.TEXT:
                found = frames.parse_ack(Frame(header.type, payload))
                assert found is not None
                text = payload.decode(errors="replace")
                is_kept = text.startswith("ACK ") and "UNKNOWN" not in text
                assert found.is_stored == is_kept, text
    assert seen > 40


def test_what_is_only_acknowledged_is_not_stored() -> None:
    def is_stored(text: str) -> bool:
        found = frames.parse_ack(Frame(FrameType.TEXT, text.encode()))
        assert found is not None
        return found.is_stored

    assert is_stored("ACK FILE 1 bytes")
    assert not is_stored("ACK UNKNOWN(7) 1 bytes")
    assert not is_stored("ERR FILE save failed: no")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x04\x01" + b"x" * 1025 + bytes(4),
        b"\x00\x02{}",
        b"\x00\x02{}\x00\x00\x00\x0a",
        b"\x00\x02[]\x00\x00\x00\x01",
        b"\x00\x04null\x00\x00\x00\x01",
        b'\x00\x10{"message_id":1}\x00\x00\x00\x01',
        b'\x00\x17{"message_id":"bad id"}\x00\x00\x00\x01',
        b"\x00\x03\xff\xfe\xfd\x00\x00\x00\x01",
        b"\x04\x00" + b"[" * 1024 + b"\x00\x00\x00\x01",
    ],
)
def test_malformed_tags_raise_one_error(payload: bytes) -> None:
    with pytest.raises(FrameError):
        frames.split_tagged(payload)


def test_a_tag_is_checked_before_it_is_sent() -> None:
    for tag in (Tag("bad id"), Tag("x" * 129), Tag("a", "b\n")):
        with pytest.raises(FrameError):
            frames.tagged(tag, Frame(FrameType.TEXT, b""))
    with pytest.raises(FrameError):
        frames.tagged(Tag("a"), Frame(FrameType.TAGGED, b""))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    for parse in (filestream.parse, bulk.parse, frames.split_tagged, frames.parse_trace):
        with suppress(FrameError):
            parse(payload)
    frames.split_file(payload)
    frames.parse_ack(Frame(FrameType.TEXT, payload))


@pytest.mark.parametrize(
    "control",
    [
        bulk.Offer("0" * 32, "a/b.txt", 12, "1" * 32, "folder"),
        bulk.Offer("0" * 32, "from a pipe"),
        bulk.Accept(7),
        bulk.End("ab" * 32),
        bulk.Result(bytes=12),
        bulk.Result("quota", "your quota of bytes is used up"),
        bulk.Abort("the file changed"),
        bulk.Close("1" * 32, "folder"),
    ],
)
def test_bulk_frames_are_read_as_they_were_written(control: bulk.Control) -> None:
    header, payload = read(bulk.encode(control))
    assert header.type == FrameType.BULK
    assert bulk.parse(payload) == control


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x03",
        b"\x09{}",
        b"\x01{}",
        b'\x01{"key":"..","path":"a"}',
        b'\x01{"key":"%s","path":"a","size":-1}' % (b"0" * 32),
        b'\x01{"key":"%s","path":"a","size":9223372036854775808}' % (b"0" * 32),
        b'\x01{"key":"%s","path":"a","size":1.5}' % (b"0" * 32),
        b'\x01{"key":"%s","path":"%s"}' % (b"0" * 32, b"a" * 4097),
        b'\x01{"key":"%s","path":"a","tree":"../../x"}' % (b"0" * 32),
        b'\x02{"offset":-1}',
        b'\x04{"sha256":"AB"}',
        b'\x04{"sha256":"%s"}' % (b"AB" * 32),
        b"\x01" + b"[" * 10_000,
        b"\x01" + b"x" * (1 << 15),
    ],
)
def test_malformed_bulk_frames_raise_one_error(body: bytes) -> None:
    with pytest.raises(FrameError):
        bulk.parse(body)
