"""Drivers at scripted daemons of existing generations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from tests.support.fake_daemon import END, FakeDaemon

from pilotstack import Address, Driver
from pilotstack.errors import ConnectionFailed
from pilotstack.ipc import codes
from pilotstack.ipc import network_requests as n
from pilotstack.ipc.frames import frame
from pilotstack.ipc.layout import U16
from pilotstack.ipc.network_answers import UNTOLD

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


class OldDaemon(FakeDaemon):
    """Knows the framed dialect; a second-generation one confirms datagrams and broadcasts."""

    generation = 2
    #: Why it cannot send datagrams.
    refuses = ""

    def _answer(self, command: int, payload: bytes) -> bytes:
        if command == codes.SEND_TO:
            return b""
        if self.generation == 2 and command == codes.SEND_TO_CONFIRM:
            if self.refuses:
                return frame(codes.ERROR, U16.pack(1), self.refuses.encode())
            return frame(codes.SEND_TO_OK)
        if self.generation == 2 and command == codes.BROADCAST:
            return frame(codes.BROADCAST + 1)
        text = f"unknown command: 0x{command:02X}"
        return frame(codes.ERROR, U16.pack(1), text.encode())


def sent(daemon: FakeDaemon) -> list[int]:
    return [body[0] for body in daemon.frames if body[0] != codes.HELLO]


@pytest.mark.parametrize("generation", [1, 2])
async def test_datagrams_are_sent_and_confirmed_where_the_daemon_does(
    tmp_path: Path, generation: int
) -> None:
    with OldDaemon(tmp_path / "s") as daemon:
        daemon.generation = generation
        async with Driver(daemon.path) as driver, await driver.datagram(80) as datagrams:
            for _ in range(2):
                await datagrams.send_to(b"hello", (Address(0, 42), 80))
            with anyio.fail_after(20):
                while len(sent(daemon)) < (3 if generation == 1 else 2):
                    await anyio.lowlevel.checkpoint()
    confirmed, plain = codes.SEND_TO_CONFIRM, codes.SEND_TO
    assert sent(daemon) == ([confirmed, plain, plain] if generation == 1 else [confirmed] * 2)
    assert daemon.frames[-1][1:] == END + b"hello"


async def test_a_refused_datagram_says_why(tmp_path: Path) -> None:
    with OldDaemon(tmp_path / "s") as daemon:
        daemon.refuses = "sendto: payload too large: 70000 bytes (max 65535)"
        async with Driver(daemon.path) as driver, await driver.datagram(80) as datagrams:
            with pytest.raises(ConnectionFailed, match="payload too large"):
                await datagrams.send_to(b"hello", (Address(0, 42), 80))


async def test_datagrams_of_the_port_arrive_and_others_are_dropped(tmp_path: Path) -> None:
    with OldDaemon(tmp_path / "s") as daemon:
        async with Driver(daemon.path) as driver, await driver.datagram(80) as datagrams:
            # Its socket is known to the daemon as soon as it has answered there.
            await datagrams.send_to(b"hello", (Address(0, 42), 80))
            client = len(daemon._clients) - 1
            daemon.give_datagram(b"for another", client, 81)
            daemon.give_datagram(b"news", client, 80)
            arrived = await datagrams.receive()
    assert arrived.data == b"news"
    assert arrived.source.address == Address(0, 42)


async def test_a_broadcast_that_is_answered_without_a_word_succeeded(tmp_path: Path) -> None:
    with OldDaemon(tmp_path / "s") as daemon:
        async with Driver(daemon.path) as driver:
            answer = await driver.ask(n.Broadcast(1, 1000, "token", b"hello"))
    assert (answer.bytes, answer.members) == (5, UNTOLD)
