"""The largest IP packet that reaches a beacon whole: a search between what every path takes and
what this host's interface takes (RFC 8899 without timers: nothing else is sent meanwhile)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Bytes of the smallest MTU of a link (RFC 791 and RFC 8200), and of the headers of IP and UDP.
LEAST: Final = {4: 576, 6: 1280}
HEADERS: Final = {4: 28, 6: 48}
#: Sizes that links often have, tried before halving the interval.
_COMMON: Final = (1280, 1400, 1420, 1460, 1480, 1492, 1500)
#: Largest size that is tried.
MOST: Final = 9216
#: Bytes between the largest size that arrived and the smallest that did not, in the end.
_PRECISE: Final = 4


async def search(arrives: Callable[[int], Awaitable[bool]], link: int, version: int) -> int:
    """The path MTU towards a beacon, in bytes of an IP packet, or 0 if not even the smallest
    question arrived.

    Args:
        arrives: whether a UDP payload of so many bytes arrived and was answered.
        link: MTU of this host's interface.
        version: of IP.
    """
    around = HEADERS[version]
    least, most = LEAST[version], min(max(link, LEAST[version]), MOST)
    if await arrives(most - around):
        return most
    if not await arrives(least - around):
        return 0
    sizes = [least, *(size for size in _COMMON if least < size < most), most]
    while len(sizes) > len((least, most)):
        middle = len(sizes) // 2
        has_arrived = await arrives(sizes[middle] - around)
        sizes = sizes[middle:] if has_arrived else sizes[: middle + 1]
    least, most = sizes
    while most - least > _PRECISE:
        middle = (least + most) // 2
        if await arrives(middle - around):
            least = middle
        else:
            most = middle
    return least
