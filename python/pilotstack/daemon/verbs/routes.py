"""The verb about the way to a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.daemon import snapshot as snapshots
from pilotstack.errors import ConnectionFailed, NotFound
from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.snapshot import Source
    from pilotstack.daemon.verbs.table import Table


class RouteVerbs:
    """Answers drivers about the way to a peer. Nothing is relayed here.

    Args:
        find_again: asks the registry anew where a node is.
        core: knows tunnels.
    """

    def __init__(self, find_again: Callable[[int], Awaitable[None]], core: Source) -> None:
        self._find_again = find_again
        self._core = core

    def add_to(self, table: Table) -> None:
        """Lets this verb answer."""
        table.add(r.PreferDirect, self.prefer_direct)

    async def prefer_direct(self, request: r.PreferDirect) -> a.DirectPreferred:
        """Asks the registry anew where a node is, and goes there."""
        node = request.node_id
        peers = snapshots.take(self._core).peer_list
        error = ""
        try:
            await self._find_again(node)
        except (NotFound, ConnectionFailed, OSError, ValueError) as reason:
            error = str(reason)
        return a.DirectPreferred(
            node_id=node,
            had_tunnel=any(peer.node_id == node and peer.encrypted for peer in peers),
            pila_pushed=not error,
            resolve_error=error,
        )
