"""Text on a stream, and sessions of bytes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.errors import InvalidArgument
from pilotstack.services import stdio

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pilotstack.client import Stream

pytestmark = pytest.mark.anyio


@dataclass
class Peer:
    """Sends some chunks and FIN, and keeps what it gets."""

    chunks: list[bytes]
    got: bytes = b""
    has_eof: bool = False
    hold: anyio.Event = field(default_factory=anyio.Event)

    async def receive(self, max_bytes: int = 1 << 16) -> bytes:
        if not self.chunks:
            raise anyio.EndOfStream
        chunk = self.chunks.pop(0)
        if len(chunk) > max_bytes:
            self.chunks.insert(0, chunk[max_bytes:])
        return chunk[:max_bytes]

    async def send(self, item: bytes) -> None:
        self.got += item

    async def send_eof(self) -> None:
        self.has_eof = True


async def lines(chunks: list[bytes], limit: int = stdio.MAX_LINE) -> list[str]:
    return [line async for line in stdio.Lines(cast("Stream", Peer(chunks)), limit)]


async def test_lines_come_whole_however_they_were_cut() -> None:
    assert await lines([b"a", b"b\nc\r", b"\n\nlast"]) == ["ab", "c", "", "last"]
    assert await lines(["grün\n".encode()[:3], "grün\n".encode()[3:]]) == ["grün"]
    assert await lines([b"\xff\n"]) == ["\N{REPLACEMENT CHARACTER}"]
    assert await lines([]) == []


async def test_a_line_that_is_too_long_comes_in_parts() -> None:
    assert await lines([b"abcdefgh\nij\n"], limit=3) == ["abc", "def", "gh", "ij"]
    with pytest.raises(InvalidArgument):
        await lines([], limit=0)


@given(st.text(alphabet="ab\n", max_size=60), st.integers(1, 7), st.data())
def test_nothing_is_lost_or_made_up(text: str, limit: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    chunks = [text[i:j].encode() for i, j in itertools.pairwise(edges) if i != j]
    found = anyio.run(lines, chunks, limit, backend="trio")
    assert "".join(found) == text.replace("\n", "")
    assert all(len(line) <= limit for line in found)


async def test_each_direction_of_a_session_ends_by_itself() -> None:
    peer, source, sink = Peer([b"from the peer"]), Peer([b"to ", b"the peer"]), Peer([])
    await stdio.session(cast("ByteStream", peer), source, sink)
    assert (peer.got, peer.has_eof, sink.got) == (b"to the peer", True, b"from the peer")


async def test_a_silent_source_is_over_some_time_after_the_peer() -> None:
    class Silent:
        async def receive(self) -> bytes:
            await anyio.sleep_forever()
            raise AssertionError

    peer, sink = Peer([b"all"]), Peer([])
    with anyio.fail_after(30):
        await stdio.session(cast("ByteStream", peer), Silent(), sink, patience=0.01)
    assert (peer.has_eof, sink.got) == (True, b"all")
