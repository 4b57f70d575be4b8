"""Hostile load from the network and from local programs; loopback only, rate-limited."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

#: Interval between bursts, seconds.
_PAUSE = 0.05
_FRAMES = 100
_CONNECTIONS = 40
_SILENT = 64
_MAGICS = (b"", b"PILS", b"PILA", b"PILK", b"PILP", b"PILT", b"\1", b"\2", b"\5", b"\6")
_BODIES = (b"[" * 5000, b"null", b'{"type":"lookup","node_id":1e999}', b"GET / HTTP/1.1\r\n")
_NO_LINGER = struct.pack("ii", 1, 0)


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``."""
    host, _, port = text.rpartition(":")
    return host, int(port)


class Hostile:
    """Attackers of every socket.

    Args:
        udp: tunnels and beacons.
        tcp: registry and HTTP ports.
        unix: sockets of daemons.
        rng: what they send.
    """

    def __init__(
        self, udp: list[str], tcp: list[str], unix: list[Path], rng: random.Random
    ) -> None:
        self._udp = [address(text) for text in udp]
        self._tcp = [address(text) for text in tcp]
        self._unix = unix
        self._rng = rng
        self.frames = 0
        self.connections = 0

    async def run(self) -> None:
        """Attacks until cancelled."""
        async with anyio.create_task_group() as tasks:
            for attack in (self._flood, self._reset, self._garbage, self._silent, self._local):
                tasks.start_soon(self._repeat, attack)

    async def _repeat(self, attack: Callable[[], list[socket.socket]]) -> None:
        while True:
            held = attack()
            try:
                await anyio.sleep(_PAUSE)
            finally:
                for each in held:
                    each.close()

    def _flood(self) -> list[socket.socket]:
        """Frames of every kind, from one of many addresses."""
        rng = self._rng
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((f"127.{rng.randrange(1, 9)}.{rng.randrange(256)}.{rng.randrange(1, 255)}", 0))
        for _ in range(_FRAMES):
            size = rng.choice([0, 4, 36, 132, 36, 132, 500, 1400])
            frame = rng.choice(_MAGICS) + rng.randbytes(size)
            sender.sendto(frame, rng.choice(self._udp))
            self.frames += 1
        return [sender]

    def _connect(self) -> socket.socket | None:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(1)
        try:
            client.connect(self._rng.choice(self._tcp))
        except OSError:
            client.close()
            return None
        self.connections += 1
        return client

    def _reset(self) -> list[socket.socket]:
        """Connections reset right after they are established."""
        for _ in range(_CONNECTIONS):
            if (client := self._connect()) is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                client.close()
        return []

    def _garbage(self) -> list[socket.socket]:
        """Invalid frames: too long, too short, not JSON, or not framed."""
        held = []
        for _ in range(_CONNECTIONS):
            if (client := self._connect()) is not None:
                body = self._rng.choice(
                    [
                        b"[" * 5000,
                        b"null",
                        b'{"type":"lookup","node_id":1e999}',
                        b"GET / HTTP/1.1\r\n",
                    ]
                )
                length = self._rng.choice([len(body), 0, 1 << 31, len(body) + 9])
                try:
                    client.sendall(length.to_bytes(4) + body)
                except OSError:
                    client.close()
                    continue
                held.append(client)
        return held

    def _silent(self) -> list[socket.socket]:
        """Silent connections."""
        return [client for _ in range(_SILENT) if (client := self._connect()) is not None]

    def _local(self) -> list[socket.socket]:
        """Programs that send invalid data or many requests to a daemon and read no answers."""
        held = []
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            try:
                client.connect(str(self._rng.choice(self._unix)))
                # A program of this user may also end a registration, so not just any command.
                command = self._rng.choice([b"\x0d", b"\x60\0\1", b"\xf0", b"\xff", b"\x61"])
                body = command + self._rng.randbytes(self._rng.randrange(60))
                client.send((len(body).to_bytes(4) + body) * 100)
            except OSError:
                client.close()
                continue
            held.append(client)
        return held
