"""What the registry said about nodes, remembered for as long as each use allows."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import anyio

from pilotstack.errors import ConnectionFailed, Throttled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import Record, RegistryClient

#: Nodes remembered.
MAX_RECORDS = 16_384
#: Seconds in which one node is asked about once, whoever wants to know.
FLOOR = 0.25
#: Seconds for which a record serves while no registry answers: tunnels outlive an outage.
OUTAGE = 3600.0
#: Seconds between attempts while the registry refuses our address for asking too much: others may
#: share it, or have made us ask.
PAUSES = (0.5, 1.0, 2.0)

_Table = OrderedDict[int, tuple[float, "Record"]]


class Records:
    """Records of one daemon. They are fetched by tasks of the control plane, never while a packet
    waits in the IO thread.

    Args:
        registry: whom to ask.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._profiles: _Table = OrderedDict()
        self._resolved: _Table = OrderedDict()

    async def profile(self, node: int, max_age: float = FLOOR) -> Record:
        """Key, networks and visibility of a node, at most ``max_age`` seconds old unless no
        registry answers. Who wants one younger than :data:`FLOOR` waits for the next turn.

        Raises:
            NotFound: there is no such node.
            ConnectionFailed: no registry answers, and nothing is remembered.
        """
        if max_age < FLOOR:
            await _turn(self._profiles, node)
        return await self._find(self._profiles, self._registry.profile, node, max_age)

    async def resolved(self, node: int) -> Record:
        """As :meth:`profile`, with the endpoint if we may know it.

        Never from memory while a registry answers: whoever asks saw another key than we knew, or
        could not reach the node, and nobody tells us of a new key or a network that it joined.
        Who asks again at once waits for the next turn.
        """
        await _turn(self._resolved, node)
        record = await self._find(self._resolved, self._registry.record, node, FLOOR)
        _put(self._profiles, node, *self._resolved[node])
        return record

    def remembered(self, node: int) -> Record | None:
        """What was last learned about a node, while that may serve for want of a registry."""
        rows = [table[node] for table in (self._profiles, self._resolved) if node in table]
        at, record = max(rows, key=lambda row: row[0], default=(0.0, None))
        return record if time.monotonic() - at < OUTAGE else None

    def forget(self, node: int) -> None:
        """Asks anew next time: we may know more than before."""
        self._resolved.pop(node, None)
        self._profiles.pop(node, None)

    async def _find(
        self,
        table: _Table,
        fetch: Callable[[int], Awaitable[Record]],
        node: int,
        max_age: float,
    ) -> Record:
        now = time.monotonic()
        at, known = table.get(node, (0.0, None))
        if known is not None and now - at < max(max_age, FLOOR):
            return known
        try:
            found = await _patiently(fetch, node)
        except ConnectionFailed:
            if known is not None and now - at < OUTAGE:
                return known
            raise
        _put(table, node, time.monotonic(), found)
        return found


async def _patiently(fetch: Callable[[int], Awaitable[Record]], node: int) -> Record:
    for pause in PAUSES:
        try:
            return await fetch(node)
        except Throttled:
            await anyio.sleep(pause)
    return await fetch(node)


async def _turn(table: _Table, node: int) -> None:
    """Waits until the node may be asked about again."""
    if node in table:
        await anyio.sleep(max(0.0, table[node][0] + FLOOR - time.monotonic()))


def _put(table: _Table, node: int, at: float, record: Record) -> None:
    table[node] = (at, record)
    table.move_to_end(node)
    if len(table) > MAX_RECORDS:
        table.popitem(last=False)
