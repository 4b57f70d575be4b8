"""Tells systemd that a service is ready, lives, and stops: the protocol of sd_notify(3).

Without systemd, which sets ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"
_MICROSECONDS: Final = 1_000_000
#: Digits of a number of microseconds; converting a longer text takes long, or fails.
_MAX_DIGITS: Final = 18


def tell(*states: str) -> bool:
    """Sends states to the service manager; whether it took them. Never blocks."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in {"/", "@"}:
        return False
    # A name of the abstract namespace begins with NUL, for which the environment has no room.
    address = f"\0{path[1:]}" if path[0] == "@" else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(states).encode(), address)
        return True
    return False


def ready() -> bool:
    """Says that the service serves; whether somebody was told."""
    # Needed by Type=notify-reload, and ignored otherwise.
    return tell(READY, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what the service manager waits for; ``None`` if it
    does not wait for any of this process."""
    digits, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if process and process != str(os.getpid()):
        return None
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS):
        return None
    return int(digits) / _MICROSECONDS / 2 or None
