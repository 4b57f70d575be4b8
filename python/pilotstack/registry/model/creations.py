"""Budgets for new networks, and the id of the next one. No clocks here.

There are 65,535 ids. The id of a deleted network is reused after a day, once no unused id is left.
The budgets allow fewer networks per day than there are ids, so creating and deleting networks in
turn never exhausts them. The number of networks that one node owns is bounded, more tightly as ids
run short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack._resolving import source_of
from pilotstack.registry.model.budgets import Bucket, Buckets
from pilotstack.registry.protocol.errors import Code, Denied

if TYPE_CHECKING:
    from pilotstack.registry.model.tables import Tables

MAX_NETWORK: Final = 0xFFFF
#: Seconds before the id of a deleted network is reused.
QUARANTINE: Final = 86_400.0
#: New networks of one node: burst, and per second.
NODE_BURST: Final = 64.0
NODE_RATE: Final = 1 / 60
#: The same of one IPv4 address or IPv6 /64.
SOURCE_BURST: Final = 256.0
SOURCE_RATE: Final = 4 / 60
#: In total; with :data:`QUARANTINE` a third of the ids stays free.
ALL_BURST: Final = 4096.0
ALL_RATE: Final = 0.45
#: Networks that one node may own while at least so many ids are left.
_OWNED: Final = ((1 << 15, 64), (1 << 14, 16), (1 << 13, 4))


def max_owned(networks: int) -> int:
    """Networks that one node may own, given how many networks there are."""
    left = MAX_NETWORK - networks
    return next((owned for least, owned in _OWNED if left >= least), 1)


class Creations:
    """The budgets."""

    def __init__(self) -> None:
        self._nodes = Buckets(NODE_RATE, NODE_BURST)
        self._sources = Buckets(SOURCE_RATE, SOURCE_BURST)
        self._all = Bucket(ALL_RATE, ALL_BURST, 0.0)

    def spend(self, node_id: int, host: str, now: float) -> None:
        """Takes one network from the budgets.

        Raises:
            Denied: there is none left.
        """
        node, (source, _) = str(node_id), source_of(host)
        for buckets, key, what in (
            (self._nodes, node, f"of node {node_id}"),
            (self._sources, source, f"from {source}"),
        ):
            if not buckets.has(key, now):
                raise Denied(f"too many new networks {what}: wait a minute", Code.NETWORKS_LIMITED)
        if not self._all.take(now):
            raise Denied("too many new networks in all: wait a minute", Code.NETWORKS_LIMITED)
        self._nodes.take(node, now)
        self._sources.take(source, now)

    def sweep(self, now: float) -> None:
        """Drops what has refilled."""
        self._nodes.sweep(now)
        self._sources.sweep(now)


def next_id(tables: Tables, now: float) -> int:
    """The id of a new network.

    Raises:
        Denied: none is free.
    """
    if tables.next_network <= MAX_NETWORK:
        return tables.next_network
    # The one that has been free longest comes first in the table.
    for network_id, retired in tables.retired.items():
        if now - retired.at < QUARANTINE:
            break
        if network_id not in tables.networks:
            return network_id
    raise Denied(f"network ID space exhausted (max {MAX_NETWORK} networks)", Code.FULL)
