"""Verbs about the ways to peers: which are in use, and how one comes about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.daemon import snapshot as snapshots
from pilotstack.errors import ConnectionFailed, NotFound, PilotError
from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.peers import Outcome
    from pilotstack.daemon.snapshot import Source
    from pilotstack.daemon.verbs.table import Table

#: Rows of an answer; one has up to 4,000 bytes, a frame 2**20.
MAX_ROWS: Final = 256
#: Seconds for a tunnel; an answer has 25.
SETUP: Final = 20.0
#: Seconds between looks whether there is one.
_LOOK_AGAIN: Final = 0.005


class RouteVerbs:
    """Answers drivers about the ways to peers.

    Args:
        find_again: asks the registry anew where a node is.
        core: knows tunnels.
        open_tunnel: has the core set up a tunnel.
        outcome: how the last lookup of a node ended.
    """

    def __init__(
        self,
        find_again: Callable[[int], Awaitable[None]],
        core: Source,
        open_tunnel: Callable[[int], None],
        outcome: Callable[[int], Outcome | None],
    ) -> None:
        self._find_again = find_again
        self._core = core
        self._open_tunnel = open_tunnel
        self._outcome = outcome

    def add_to(self, table: Table) -> None:
        """Lets these verbs answer."""
        table.add(r.PreferDirect, self.prefer_direct)
        table.add(r.ListPeers, self.list_peers)
        table.add(r.Trace, self.trace)

    async def prefer_direct(self, request: r.PreferDirect) -> a.DirectPreferred:
        """Asks the registry anew where a node is, and goes there."""
        node = request.node_id
        peer = self._row(node)
        error = ""
        try:
            await self._find_again(node)
        except (NotFound, ConnectionFailed, OSError, ValueError) as reason:
            error = str(reason)
        return a.DirectPreferred(
            node_id=node,
            had_tunnel=peer.encrypted,
            pila_pushed=not error,
            resolve_error=error,
            was_relay_active=peer.relay,
        )

    async def list_peers(self, request: r.ListPeers) -> a.Peers:
        """Peers with the ways to them that were considered."""
        rows = snapshots.take(self._core).peer_list
        found = tuple(row for row in rows if request.node_id in (0, row.node_id))
        return a.Peers(peers=found[:MAX_ROWS], total=len(found))

    async def trace(self, request: r.Trace) -> a.Traced:
        """Sets up a tunnel, and tells how long each step took."""
        node = request.node_id
        if self._row(node).authenticated:
            phases = (a.Phase("resolve", 0.0, "known"), a.Phase("tunnel", 0.0, "established"))
            return a.Traced(node_id=node, is_warm=True, phases=phases)
        begun = time.perf_counter()
        # The core asks for the record itself: one asked for before would delay that.
        self._open_tunnel(node)
        with anyio.move_on_after(SETUP):
            await self._until_authenticated(node, begun)
        row, ended = self._row(node), time.perf_counter()
        found = self._outcome(node)
        is_fresh = found is not None and found.at >= begun
        resolved = found.at if found is not None and is_fresh else begun
        if not row.authenticated:
            raise ConnectionFailed(
                f"node {node} was found in {_ms(begun, resolved):.0f} ms, and does not answer",
                hint=f"the ways that were tried: pilotctl peers --candidates --search {node}",
            )
        way = f"relayed by {row.beacon}" if row.relay else f"direct to {row.endpoint}"
        phases = (
            a.Phase("resolve", _ms(begun, resolved), "asked the registry" if is_fresh else "known"),
            a.Phase("tunnel", _ms(resolved, ended), way),
        )
        return a.Traced(node_id=node, phases=phases)

    async def _until_authenticated(self, node: int, begun: float) -> None:
        """Returns when there is a session.

        Raises:
            PilotError: the node's record was looked up since ``begun``, and there is none.
        """
        while True:
            found = self._outcome(node)
            if found is not None and found.at >= begun and found.error is not None:
                raise _refusal(node, found.error)
            if self._row(node).authenticated:
                return
            await anyio.sleep(_LOOK_AGAIN)

    def _row(self, node: int) -> a.PeerInfo:
        """What the core knows of a peer."""
        rows = snapshots.take(self._core).peer_list
        return next((row for row in rows if row.node_id == node), a.PeerInfo(node))


def _refusal(node: int, error: Exception) -> PilotError:
    if isinstance(error, PilotError):
        return error
    return ConnectionFailed(f"no way to node {node} is known: {error}")


def _ms(start: float, end: float) -> float:
    return round(1000 * (end - start), 3)
