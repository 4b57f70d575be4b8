"""Notices that this host's addresses or routes change: told by the kernel where it does that
(rtnetlink(7)), else by looking now and then."""

from __future__ import annotations

import socket as sockets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

#: Groups of rtnetlink(7): addresses and routes of either family.
_GROUPS: Final = 0x10 | 0x40 | 0x100 | 0x400
#: Seconds for what belongs together to arrive together.
_SETTLE: Final = 0.1
#: Seconds between looks where nobody tells.
POLL: Final = 5.0
_READ: Final = 1 << 16


class AddressWatch:
    """Tells that something changed; a context manager."""

    def __init__(self) -> None:
        self._socket: sockets.socket | None = None

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

    async def wait(self) -> None:
        """Returns when something may have changed."""
        if self._socket is None:
            await anyio.sleep(POLL)
            return
        await anyio.wait_readable(self._socket)
        await anyio.sleep(_SETTLE)
        # What changed is looked up anew; a full buffer (ENOBUFS) says as much.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass
        # A read that failed for want of room leaves what fitted.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass
