"""Notices changes of this host's addresses and routes, by rtnetlink(7) where there is one, and that
the host was suspended."""

from __future__ import annotations

import socket as sockets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

#: Multicast groups of rtnetlink(7): addresses and routes of IPv4 and IPv6.
_GROUPS: Final = 0x10 | 0x40 | 0x100 | 0x400
#: Seconds in which messages of one change arrive.
_SETTLE: Final = 0.02
#: Seconds between looks without a message: for systems without rtnetlink, and to notice that the
#: host was suspended.
POLL: Final = 5.0
#: Seconds of suspension that count: bindings of a NAT may have expired.
SUSPENDED: Final = 2.0
_READ: Final = 1 << 16


class AddressWatch:
    """Waits for changes; a context manager."""

    def __init__(self) -> None:
        self._socket: sockets.socket | None = None
        self._suspended = suspended_for()

    def __enter__(self) -> Self:
        with suppress(OSError, AttributeError):
            self._socket = sockets.socket(sockets.AF_NETLINK, sockets.SOCK_RAW, 0)
            self._socket.setblocking(False)
            self._socket.bind((0, _GROUPS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def wait(self) -> bool:
        """Returns when addresses or routes may have changed, and whether the host was suspended."""
        await self._wait()
        before, self._suspended = self._suspended, suspended_for()
        return self._suspended - before >= SUSPENDED

    async def _wait(self) -> None:
        if self._socket is None:
            await anyio.sleep(POLL)
            return
        with anyio.move_on_after(POLL) as waiting:
            await anyio.wait_readable(self._socket)
        if waiting.cancelled_caught:
            return
        await anyio.sleep(_SETTLE)
        # Callers look up the new state themselves, so a full buffer (ENOBUFS) loses nothing.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass
        # After ENOBUFS, the messages that fitted are still to be read.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass


def suspended_for() -> float:
    """Seconds for which this host has been suspended since its start; 0 where that is not told."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) - time.monotonic() if clock is not None else 0.0
