"""The dashboard of a registry.

Strangers see what they could ask for: figures, networks that they may know of, beacons. Whoever
shows the admin token sees every node, who trusts whom, and the log; without an admin token, so do
programs on this host.
"""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Final

from pilotstack import _events, wellknown
from pilotstack.observe.dashboard import Dashboard
from pilotstack.observe.dashboard import view as v
from pilotstack.registry.protocol.errors import Denied
from pilotstack.registry.rules.beacons import live_beacons
from pilotstack.registry.server import statistics
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.http.messages import Request
    from pilotstack.observe.recent import Recent
    from pilotstack.registry.server.statistics import Statistics
    from pilotstack.registry.server.view import View

log = _events.get_logger(__name__)

#: Seconds between two states.
INTERVAL: Final = 5.0
#: Rows of nodes and of trust.
MAX_NODES: Final = 2000
MAX_TRUST: Final = 8000
_CLOSED: Final = "invite"


class Board:
    """What the dashboard of one registry shows.

    Args:
        view: the registry.
        figures: its aggregates, not older than a few seconds.
        problems: what does not work, by name.
        recent: the last log records.
    """

    def __init__(
        self,
        view: View,
        figures: Callable[[], Awaitable[Statistics]],
        problems: Callable[[], dict[str, str]],
        recent: Recent,
    ) -> None:
        self._view = view
        self._figures = figures
        self._problems = problems
        self._recent = recent
        self.dashboard = Dashboard(self._state, self._is_operator, INTERVAL)

    def _is_operator(self, request: Request) -> bool:
        policy, guesses = self._view.state.policy, self._view.state.guesses
        if not policy.admin_token:
            return request.is_local
        if not request.token:
            return False
        now = self._view.now()
        try:
            guesses.check(request.address, now)
        except Denied:
            return False
        if hmac.compare_digest(request.token.encode(), policy.admin_token.encode()):
            return True
        guesses.wrong(request.address, now)
        self._view.metrics.guessed()
        secrets, host = ("admin token",), request.address
        log.security("wrong_secret", is_quiet=True, secrets=secrets, request="page", source=host)
        return False

    async def _state(self, is_operator: bool) -> v.Page:
        view, figures = self._view, await self._figures()
        state = view.state
        nodes, trust = self._nodes() if is_operator else (None, None)
        return v.Page(
            role="registry" if view.role == "primary" else f"registry ({view.role})",
            name="Rendezvous",
            version=wellknown.VERSION,
            uptime=time.monotonic() - view.metrics.started,
            time=time.time(),
            problems=self._problems(),
            is_operator=is_operator,
            tiles=[
                v.Tile("Nodes online", figures.active_nodes),
                v.Tile("Nodes", figures.total_nodes),
                v.Tile("Pairs that trust each other", figures.trust_links),
                v.Tile("Connections", view.connections),
                v.Tile("Requests", view.metrics.total, is_total=True),
            ],
            networks=[
                _network(row, is_operator=is_operator)
                for row in figures.networks
                # Of which strangers hear nothing by other ways, either.
                if is_operator or row.join_rule != _CLOSED
            ],
            beacons=[
                v.BeaconRow(row.addr, f"number {row.id}") for row in live_beacons(state, view.now())
            ],
            nodes=nodes,
            trust=trust,
            totals={"nodes": figures.total_nodes} if is_operator else {},
            events=self._recent.entries() if is_operator else None,
        )

    def _nodes(self) -> tuple[list[v.NodeRow], list[tuple[str, str]]]:
        state = self._view.state
        edges = statistics.trusted_pairs(state)
        degrees: dict[int, int] = {}
        for edge in edges:
            for node_id in edge:
                degrees[node_id] = degrees.get(node_id, 0) + 1
        live = (node for node in state.nodes.values() if not node.gone_at)
        # Those with most trust are worth most in the graph, if there are too many.
        rows = sorted(live, key=lambda node: (-degrees.get(node.node_id, 0), node.node_id))
        nodes = [
            v.NodeRow(
                address=node.address,
                hostname=node.hostname,
                online=node.node_id not in state.offline,
                public=node.public,
                trust_links=degrees.get(node.node_id, 0),
                tags=node.tags,
            )
            for node in rows[:MAX_NODES]
        ]
        pairs = [(str(Address(0, a)), str(Address(0, b))) for a, b in edges[:MAX_TRUST]]
        return nodes, pairs


def _network(row: statistics.NetworkFigures, *, is_operator: bool) -> v.NetworkRow:
    return v.NetworkRow(
        id=row.network_id,
        name=row.name,
        join_rule=row.join_rule,
        members=row.members if is_operator or row.join_rule == "open" else None,
        # Of few members it would tell who is there.
        online=row.online if is_operator or row.network_id == 0 else None,
    )
