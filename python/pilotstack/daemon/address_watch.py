"""Notices changes of this host's addresses and routes: by rtnetlink(7) where there is one, else by
polling."""

from __future__ import annotations

import socket as sockets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

#: Multicast groups of rtnetlink(7): addresses and routes of IPv4 and IPv6.
_GROUPS: Final = 0x10 | 0x40 | 0x100 | 0x400
#: Seconds in which messages of one change arrive.
_SETTLE: Final = 0.1
#: Seconds between polls on systems without rtnetlink.
POLL: Final = 5.0
_READ: Final = 1 << 16


class AddressWatch:
    """Waits for changes; a context manager."""

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
        """Returns when addresses or routes may have changed."""
        if self._socket is None:
            await anyio.sleep(POLL)
            return
        await anyio.wait_readable(self._socket)
        await anyio.sleep(_SETTLE)
        # Callers look up the new state themselves, so a full buffer (ENOBUFS) loses nothing.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass
        # After ENOBUFS, the messages that fitted are still to be read.
        with suppress(OSError):
            while self._socket.recv(_READ):
                pass
