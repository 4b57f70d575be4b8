"""Senders and receivers of the wide-area benchmark: ``wan_workers.py ROLE JSON``.

A receiver says ``ready``, then for each stream that arrives a line ``NANOSECONDS BYTES`` about
every ten milliseconds since its first byte, and ``end``. A sender sends for some seconds and
resets.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

from pilotstack import sync

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 10_000_000
BLOCK = 1 << 18
#: Linux constants missing in the socket module.
SO_MAX_PACING_RATE = 47
#: Bytes per second, more than any path of the grid has.
MAX_PACING_RATE = 1 << 30


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def count(receive: Any) -> None:
    """Reads a stream to its end and reports its progress."""
    received, begin, shown = 0, 0, 0
    while True:
        try:
            part = receive(BLOCK)
        except (OSError, EOFError):
            break
        if not part:
            break
        now = time.monotonic_ns()
        begin = begin or now
        received += len(part)
        if now - begin >= shown + STEP:
            shown = now - begin
            say(f"{shown} {received}")
    say("end")


def tcp_receive(address: str, port: int) -> None:
    with socket.create_server((address, port)) as listener:
        say("ready")
        while True:
            accepted, _ = listener.accept()
            with accepted:
                count(accepted.recv)


def tcp_send(address: str, port: int, congestion: str, seconds: float, *, is_paced: bool) -> None:
    with socket.socket() as sender:
        if is_paced:
            # Any bound makes the kernel pace, at the rate of its own where that is lower.
            sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, MAX_PACING_RATE)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        sender.settimeout(20)
        sender.connect((address, port))
        blast(sender, seconds)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def blast(sender: Any, seconds: float) -> None:
    data = b"\x5a" * BLOCK
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        sender.settimeout(left)
        try:
            sender.send(data)
        except TimeoutError:
            return


def ours_receive(path: str, port: int) -> None:
    with sync.Driver(path) as driver, driver.listen(port) as listener:
        say("ready")
        while True:
            with listener.accept() as stream:
                count(stream.recv)


def ours_send(path: str, target: str, congestion: Any, seconds: float) -> None:
    with sync.Driver(path) as driver:
        stream = driver.dial(target, congestion=congestion, timeout=60)
        try:
            blast(stream, seconds)
        finally:
            driver.abort(stream)
            driver.info()
            stream.close()


ROLES: dict[str, Callable[..., None]] = {
    "tcp-receive": tcp_receive,
    "tcp-send": tcp_send,
    "ours-receive": ours_receive,
    "ours-send": ours_send,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
