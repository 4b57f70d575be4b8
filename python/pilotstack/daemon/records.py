"""Cache of what the registry says about nodes; each use states how old a record may be."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import anyio

from pilotstack.errors import ConnectionFailed, Throttled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import Record, RegistryClient

#: Records in the cache at most.
MAX_RECORDS = 16_384
#: Seconds between two requests about the same node.
FLOOR = 0.25
#: Seconds for which a record is used while no registry answers: tunnels outlive an outage.
OUTAGE = 3600.0
#: Seconds between attempts while the registry throttles our IP address: others may share it, or
#: have caused our requests.
PAUSES = (0.5, 1.0, 2.0)

_Table = OrderedDict[int, tuple[float, "Record"]]


class Records:
    """The records of one daemon. They are fetched by tasks of the control plane; the IO thread
    never waits for them.

    Args:
        registry: whom to ask.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._profiles: _Table = OrderedDict()
        self._resolved: _Table = OrderedDict()

    async def profile(self, node: int, max_age: float = FLOOR) -> Record:
        """Key, networks and visibility of a node, at most ``max_age`` seconds old unless no
        registry answers. If ``max_age`` is below :data:`FLOOR`, this waits for the next request.

        Raises:
            NotFound: there is no such node.
            ConnectionFailed: no registry answers, and there is no record.
        """
        if max_age < FLOOR:
            await _turn(self._profiles, node)
        return await self._find(self._profiles, self._registry.profile, node, max_age)

    async def resolved(self, node: int) -> Record:
        """As :meth:`profile`, with the endpoint if we may know it.

        Never from the cache while a registry answers: the caller has seen another key than the
        cached one, or could not reach the node, and the registry pushes no changes. Repeated
        requests wait until :data:`FLOOR` has passed.
        """
        await _turn(self._resolved, node)
        record = await self._find(self._resolved, self._registry.record, node, FLOOR)
        _put(self._profiles, node, *self._resolved[node])
        return record

    def remembered(self, node: int) -> Record | None:
        """The last record of a node, if it is young enough to be used during an outage."""
        rows = [table[node] for table in (self._profiles, self._resolved) if node in table]
        at, record = max(rows, key=lambda row: row[0], default=(0.0, None))
        return record if time.monotonic() - at < OUTAGE else None

    def forget(self, node: int) -> None:
        """Drops the records of a node, because the registry may tell more now."""
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
    """Waits until :data:`FLOOR` has passed since the last request about the node."""
    if node in table:
        await anyio.sleep(max(0.0, table[node][0] + FLOOR - time.monotonic()))


def _put(table: _Table, node: int, at: float, record: Record) -> None:
    table[node] = (at, record)
    table.move_to_end(node)
    if len(table) > MAX_RECORDS:
        table.popitem(last=False)
