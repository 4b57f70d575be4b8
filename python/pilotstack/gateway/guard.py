"""Which users of this host may connect.

TCP has no credentials. The kernel lists who owns the other end of a connection within this host
(proc(5), ``/proc/net/tcp``); where that is not known, nobody is admitted.
"""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.services.local import LocalStream

_TABLES: Final = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
#: Fields of a line: the own end, the other end, the owner.
_OWN, _OTHER, _UID = 1, 2, 7
_MAX_UID: Final = 0xFFFF_FFFE


class Guard:
    """Admits connections of some users.

    Args:
        uids: of those users; everybody is admitted if there is none.
    """

    def __init__(self, uids: tuple[int, ...]) -> None:
        self._uids = frozenset(uids)
        #: Connections that were refused.
        self.dropped: Counter[str] = Counter()

    def guarded(
        self, handler: Callable[[LocalStream], Awaitable[None]]
    ) -> Callable[[LocalStream], Awaitable[None]]:
        """The handler for connections that are admitted; others are reset."""
        if not self._uids:
            return handler

        async def handle(local: LocalStream) -> None:
            if await anyio.to_thread.run_sync(self._admits, local):
                await handler(local)
                return
            self.dropped["uid"] += 1
            local.reset()

        return handle

    def _admits(self, local: LocalStream) -> bool:
        own, peer = local.local_address, local.peer_address
        if own is None or peer is None:
            return False
        return owner(peer, own) in self._uids


def owner(end: tuple[str, int], other: tuple[str, int]) -> int | None:
    """The user who owns one end of a connection within this host, if that is known."""
    version = ipaddress.ip_address(end[0]).version
    wanted = _entry(*end), _entry(*other)
    try:
        with _TABLES[version].open() as table:
            for line in table:
                fields = line.split()
                if len(fields) > _UID and (fields[_OWN], fields[_OTHER]) == wanted:
                    return int(fields[_UID])
    except (OSError, ValueError):
        return None
    return None


def _entry(host: str, port: int) -> str:
    """An end as the table has it: words of the address in the order of this machine."""
    packed = ipaddress.ip_address(host).packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(w, sys.byteorder):08X}" for w in words) + f":{port:04X}"


def parse_uids(text: str) -> tuple[int, ...]:
    """Users by number, separated by commas.

    Raises:
        InvalidArgument: one is none.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    are_digits = all(p.isascii() and p.isdecimal() and len(p) <= 10 for p in parts)
    if not are_digits or any(int(part) > _MAX_UID for part in parts):
        raise InvalidArgument(f"not user ids: {text[:100]!r}", hint="as in --allow-uid 0,1000")
    return tuple(map(int, parts))
