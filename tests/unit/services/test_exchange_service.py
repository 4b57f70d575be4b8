"""The data exchange as existing nodes speak to it, byte by byte."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.services import vectors
from tests.unit.services.exchange import PEER, Service, serving

from pilotstack.services.budget import Budget
from pilotstack.services.data_exchange import InboxLimits, Limits, frames
from pilotstack.services.data_exchange.frames import Frame, FrameType, Tag
from pilotstack.services.data_exchange.reader import Reader
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.services.streams import Pipe

pytestmark = pytest.mark.anyio

LIVE = [
    row
    for row in vectors.of("live_transcripts")["pairs"]["g2-g2"]
    if row.get("port") == 1001 and "dial_error" not in row
]
#: Where we answer otherwise than the recorded daemons, and what.
OURS = {
    # The name is made safe, and the file is stored.
    "file traversal": "ACK FILE 1 bytes",
    "file slash": "ACK FILE 1 bytes",
    "file backslash": "ACK FILE 1 bytes",
    "file nul": "ACK FILE 1 bytes",
    "file name 255": "ACK FILE 1 bytes",
    # What is not stored is not acknowledged.
    "file empty name": "ERR FILE save failed: the file has no name",
    "file short payload": "ERR FILE save failed: the file has no name",
    "file nlen past end": "ERR FILE save failed: the file has no name",
    "file dotdot": "ERR FILE save failed: the name is reserved",
    # Errors are told before the end.
    "type 10 with payload '?'": "ERR a tag that is cut short",
    "tagged bad id": "ERR an id of other characters than letters, digits and ._:-",
    "tagged inner 10": "ERR a tag inside a tag",
    "oversize 16MiB+1 header": (
        "ERR TEXT save failed: a message has at most 16777216 bytes, not 16777217"
    ),
    "oversize 64MiB+1 header": (
        "ERR TEXT save failed: a message has at most 16777216 bytes, not 67108865"
    ),
}
#: Where the recorded daemon is lax and we are not: a file is named by its own hash.
STRICT = {"filestream id != sha prefix": "the id is not the start of the hash"}


async def answers(stream: Pipe, count: int) -> list[Frame]:
    reader = Reader(stream)
    found = []
    for _ in range(count):
        with anyio.fail_after(10):
            frame = await reader.frame(1 << 20)
        assert frame is not None
        found.append(frame)
    return found


def frames_of(data: bytes) -> list[Frame]:
    found = []
    while data:
        header = frames.parse_header(data[:8])
        found.append(Frame(header.type, data[8 : 8 + header.length]))
        data = data[8 + header.length :]
    return found


@pytest.fixture
async def service(tmp_path: Path) -> Any:
    async with serving(tmp_path) as service:
        yield service


@pytest.mark.parametrize("row", LIVE, ids=lambda row: row["name"])
async def test_recorded_dialogues(row: dict[str, Any], service: Service) -> None:
    stream = await service.dial()
    if row["name"] == "tagged text again (duplicate)":
        for part in row["sent_hex"]:
            await stream.send(bytes.fromhex(part))
        await answers(stream, 1)
    for part in row["sent_hex"]:
        await stream.send(bytes.fromhex(part))
    expected = frames_of(bytes.fromhex(row["reply_hex"]))
    if row["name"] in OURS:
        expected = [Frame(FrameType.TEXT, OURS[row["name"]].encode())]
    got = await answers(stream, len(expected))
    if row["name"] in STRICT:
        assert got[0].payload[-len(STRICT[row["name"]]) :].decode() == STRICT[row["name"]]
    elif row["name"].startswith("trace"):
        ours, theirs = (json.loads(each[0].payload) for each in (got, expected))
        assert list(ours) == list(theirs)
        assert ours["sent_at_ns"] == theirs["sent_at_ns"]
        # The recorded daemon stores a file inside a trace with its name's length.
        inner = theirs["inner_ack"].replace("FILE 13", "FILE 6")
        assert ours["inner_ack"] == inner
    else:
        assert got == expected
    await stream.aclose()


async def test_the_recorded_transfer_in_chunks(service: Service) -> None:
    """Out of order, too early, and once more after the end."""
    row = next(
        row
        for row in vectors.of("data_exchange")["g2_only"]
        if row["name"] == "filestream_transcript"
    )
    stream = await service.dial()
    for step in row["steps"]:
        await stream.send(bytes.fromhex(step["send_wire_hex"]))
        assert await answers(stream, 1) == frames_of(bytes.fromhex(step["reply_wire_hex"]))
    ((name, content),) = service.files().items()
    assert name.startswith("stream-")
    assert content.hex() == row["content_hex"]
    await stream.aclose()


async def test_what_is_sent_is_stored_as_existing_programs_read_it(service: Service) -> None:
    async with service.sender() as peer:
        await peer.send_text("hello <b>")
        await peer.send_json({"a": 1})
        await peer.send_bytes(b"\x00\xff")
        await peer.send(Frame(FrameType.TEXT, b"\xff"), tag=Tag("m-1", "r-1"))
    rows = [json.loads(each) for each in service.messages()]
    by_type = {(row["type"], row["bytes"]): row for row in rows}
    assert by_type["TEXT", 9]["data"] == "hello <b>"
    assert by_type["JSON", 7]["data"] == '{"a":1}'
    assert by_type["BINARY", 2]["data_b64"] == "AP8="
    # What is no text is not made one.
    assert by_type["TEXT", 1]["data_encoding"] == "base64"
    assert (by_type["TEXT", 1]["message_id"], by_type["TEXT", 1]["reply_to"]) == ("m-1", "r-1")
    assert {row["from"] for row in rows} == {str(PEER.address)}
    for path in service.inbox.glob("*.json"):
        assert re.fullmatch(r"(TEXT|JSON|BINARY)-\d{8}-\d{6}\.\d{3}-\d{6}\.json", path.name)
        assert path.stat().st_mode & 0o777 == 0o600
    assert service.inbox.stat().st_mode & 0o777 == 0o700


async def test_a_message_sent_twice_is_stored_once(service: Service) -> None:
    async with service.sender() as peer:
        first = await peer.send_text("hello", tag=Tag("id-1"))
        again = await peer.send_text("hello", tag=Tag("id-1"))
        other = await peer.send_text("hello", tag=Tag("id-2"))
    async with service.sender(SocketAddress(Address(0, 3), 1)) as stranger:
        theirs = await stranger.send_text("hello", tag=Tag("id-1"))
    assert [each.ack and each.ack.is_duplicate for each in (first, again, other, theirs)] == [
        *(False, True, False, False)
    ]
    assert len(service.messages()) == 3


async def test_a_file_in_a_tagged_frame_is_stored_once(service: Service) -> None:
    frame = Frame(FrameType.FILE, frames.file_payload("a.txt", b"data"))
    async with service.sender() as peer:
        first = await peer.send(frame, tag=Tag("f-1"))
        again = await peer.send(frame, tag=Tag("f-1"))
    assert (first.text, again.text) == ("ACK FILE 4 bytes", "ACK FILE 4 bytes (duplicate)")
    assert list(service.files().values()) == [b"data"]
    assert service.partials() == []


async def test_frames_may_come_byte_by_byte(service: Service) -> None:
    stream = await service.dial()
    wire = frames.encode(FrameType.FILE, frames.file_payload("a.txt", b"data"))
    for position in range(len(wire)):
        await stream.send(wire[position : position + 1])
    assert (await answers(stream, 1))[0].payload == b"ACK FILE 4 bytes"


async def test_a_file_that_is_cut_short_leaves_nothing(service: Service) -> None:
    stream = await service.dial()
    wire = frames.encode(FrameType.FILE, frames.file_payload("a.txt", b"data" * 100))
    await stream.send(wire[:-1])
    await stream.aclose()
    await anyio.wait_all_tasks_blocked()
    while not service.exchange.dropped["cut_short"] or service.partials():
        await anyio.lowlevel.checkpoint()
    assert service.files() == {}


async def test_existing_files_are_never_replaced(service: Service) -> None:
    async with service.sender() as peer:
        for content in (b"one", b"two", b"three"):
            await peer.send(Frame(FrameType.FILE, frames.file_payload("a.txt", content)))
    assert sorted(service.files().values()) == [b"one", b"three", b"two"]


async def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    received = tmp_path / "received"
    received.mkdir()
    (received / ".partial").symlink_to(outside)
    async with serving(tmp_path) as service, service.sender() as peer:
        answer = await peer.send(Frame(FrameType.FILE, frames.file_payload("a", b"x")))
        assert answer.text == "ERR FILE save failed: the receiver cannot store it"
        assert str(tmp_path) not in answer.text
        # Messages do not depend on it.
        assert (await peer.send_text("hello")).text == "ACK TEXT 5 bytes"
    assert list(outside.iterdir()) == []


async def test_an_inbox_keeps_its_bounds_at_the_cost_of_who_fills_it(tmp_path: Path) -> None:
    limits = InboxLimits(messages=20)
    other = SocketAddress(Address(0, 9), 1)
    async with serving(tmp_path, inbox_limits=limits) as service:
        async with service.sender(other) as peer:
            await peer.send_text("from somebody else")
        async with service.sender() as peer:
            for number in range(60):
                await peer.send_text(str(number))
        texts = [json.loads(each)["data"] for each in service.messages()]
    assert len(texts) <= 20
    assert "from somebody else" in texts
    assert "59" in texts
    # A service that starts anew counts what is there.
    async with serving(tmp_path, inbox_limits=limits) as service, service.sender() as peer:
        for number in range(30):
            await peer.send_text(f"again {number}")
        assert len(service.messages()) <= 20
        assert any(b"from somebody else" in each for each in service.messages())


async def test_messages_that_wait_hold_bounded_memory(service: Service) -> None:
    head = frames.header(FrameType.TEXT, 16 << 20)
    streams = [await service.dial() for _ in range(3)]
    block = bytes(1 << 20)
    for stream in streams[:2]:
        await stream.send(head)
        for _ in range(15):
            await stream.send(block)
    await anyio.wait_all_tasks_blocked()
    assert service.exchange._stores.budget.held == 30 << 20
    await streams[2].send(head)
    for _ in range(4):
        await streams[2].send(block)
    answer = (await answers(streams[2], 1))[0]
    assert answer.payload == b"ERR TEXT save failed: the receiver is busy, try again later"
    for stream in streams:
        await stream.aclose()
    while service.exchange._stores.budget.held:
        await anyio.lowlevel.checkpoint()


async def test_peers_that_fill_the_room_keep_nobody_out(service: Service) -> None:
    service.exchange._stores.budget = budget = Budget(8 << 20, 2 << 20)
    head = frames.header(FrameType.TEXT, 16 << 20)
    hostile = []
    for node in (11, 12, 13, 14):
        stream = await service.dial(SocketAddress(Address(0, node), 49_152))
        hostile.append(stream)
        await stream.send(head)
        await stream.send(bytes(2 << 20))
        await anyio.wait_all_tasks_blocked()
    assert budget.held == 8 << 20
    async with service.sender() as peer:
        text = "x" * (1 << 20)
        (await peer.send_text(text)).check()
    (stored,) = service.messages()
    assert text.encode() in stored
    # One of them had to give way, and is told.
    answer = (await answers(hostile[0], 1))[0]
    assert answer.payload == b"ERR TEXT save failed: the receiver is busy, try again later"
    assert service.exchange._stores.dropped["busy"] == 1
    for stream in hostile:
        await stream.aclose()
    while budget.held:
        await anyio.lowlevel.checkpoint()


async def test_quotas_hold_and_say_so(tmp_path: Path) -> None:
    limits = Limits(sender_bytes=1000, total_bytes=1500, total_files=4, sender_files=3)
    other = SocketAddress(Address(0, 9), 1)

    def file(size: int) -> Frame:
        return Frame(FrameType.FILE, frames.file_payload("a", bytes(size)))

    async with serving(tmp_path, limits=limits) as service:
        async with service.sender() as peer, service.sender(other) as second:
            assert (await peer.send(file(900))).text == "ACK FILE 900 bytes"
            own = "ERR FILE save failed: your quota of bytes is used up"
            assert (await peer.send(file(101))).text == own
            assert (await peer.send(file(100))).text == "ACK FILE 100 bytes"
            total = "ERR FILE save failed: the receiver's quota of bytes is used up"
            assert (await second.send(file(501))).text == total
            assert (await second.send(file(500))).text == "ACK FILE 500 bytes"
        # Removing a file makes room at once.
        largest = max(service.received.glob("a-*"), key=lambda path: path.stat().st_size)
        largest.unlink()
        async with service.sender() as peer:
            assert (await peer.send(file(900))).text == "ACK FILE 900 bytes"
    # Who sent what is known after a restart.
    async with serving(tmp_path, limits=limits) as service, service.sender() as peer:
        assert (await peer.send(file(1))).text == own
        largest = max(service.received.glob("a-*"), key=lambda path: path.stat().st_size)
        largest.unlink()
        for _ in range(2):
            assert (await peer.send(file(0))).text == "ACK FILE 0 bytes"
        files = "ERR FILE save failed: your quota of files is used up"
        assert (await peer.send(file(0))).text == files
