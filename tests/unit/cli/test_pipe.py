"""End of an answer on a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from pilotstack.cli import pipe

if TYPE_CHECKING:
    from pilotstack.client import Driver, Stream

pytestmark = pytest.mark.anyio
CONNECTION = 7


@dataclass
class Row:
    id: int
    state: str


@dataclass
class Peer:
    """A stream whose peer sends some chunks and then finishes, or does nothing more."""

    has_half_close: bool
    finishes: bool
    chunks: list[bytes]
    connection_id: int = CONNECTION
    has_sent_eof: bool = False

    async def send_eof(self) -> None:
        self.has_sent_eof = True

    async def receive(self) -> bytes:
        if self.chunks:
            return self.chunks.pop(0)
        if self.finishes:
            raise anyio.EndOfStream
        await anyio.sleep_forever()
        raise AssertionError


@dataclass
class Daemon:
    """What it says of the connection, look by look."""

    states: list[str] = field(default_factory=list)

    async def connections(self) -> list[Row]:
        return [Row(CONNECTION, self.states.pop(0))]


async def answer(peer: Peer, daemon: Daemon) -> bytes:
    return await pipe.answer(cast("Driver", daemon), cast("Stream", peer))


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_SILENCE", 0.01)


async def test_the_fin_of_the_peer_ends_an_answer() -> None:
    peer = Peer(has_half_close=True, finishes=True, chunks=[b"a", b"b"])
    assert await answer(peer, Daemon()) == b"ab"
    assert peer.has_sent_eof


async def test_a_pause_ends_it_where_there_is_no_half_close() -> None:
    peer = Peer(has_half_close=False, finishes=False, chunks=[b"a"])
    assert await answer(peer, Daemon()) == b"a"
    assert not peer.has_sent_eof


async def test_a_pause_ends_it_only_while_the_fin_is_held_back() -> None:
    peer = Peer(has_half_close=True, finishes=False, chunks=[b"a"])
    daemon = Daemon(["FIN_WAIT", "FIN_WAIT", "ESTABLISHED"])
    assert await answer(peer, daemon) == b"a"
    assert daemon.states == []


async def test_silence_before_an_answer_is_no_pause() -> None:
    peer = Peer(has_half_close=False, finishes=False, chunks=[])
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            await answer(peer, Daemon())
