"""What a registry shows over HTTP: health, metrics, aggregates, a dashboard.

Clients on this host see every node and the trust graph in ``/api/stats``, others only aggregates.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import wellknown
from pilotstack.http.messages import Request, Response, json_response
from pilotstack.observe.families import MetricsPage, ProcessMetrics
from pilotstack.registry.server import statistics
from pilotstack.registry.server.board import Board
from pilotstack.registry.server.exposition import RegistryMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from prometheus_client.registry import Collector

    from pilotstack.observe.recent import Recent
    from pilotstack.registry.server.statistics import NetworkFigures, Statistics
    from pilotstack.registry.server.view import View

#: Seconds for which aggregates are cached.
FRESH: Final = 5.0


class Pages:
    """The pages of a registry.

    Args:
        view: the registry.
        recent: the last log records.
        components: what else runs in this process, each with a function that tells its problem, or
            an empty text.
        collectors: its metrics.
    """

    def __init__(
        self,
        view: View,
        recent: Recent,
        components: Mapping[str, Callable[[], str]] | None = None,
        collectors: Iterable[Collector] = (),
    ) -> None:
        self._view = view
        self._own = RegistryMetrics(view)
        self._page = MetricsPage([ProcessMetrics("registry"), self._own, *collectors])
        self._components = components or {}
        self._board = Board(view, self._fresh, self._problems, recent)
        self._statistics: Statistics | None = None
        self._gathered = 0.0
        self._gathering = anyio.Lock()

    @property
    def routes(self) -> Mapping[str, Callable[[Request], Awaitable[Response]]]:
        """What answers each path."""
        return {
            **self._board.dashboard.routes,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/api/stats": self._stats,
            "/api/public-stats": self._public_stats,
        }

    async def _fresh(self) -> Statistics:
        async with self._gathering:
            now = time.monotonic()
            if self._statistics is None or now - self._gathered > FRESH:
                self._statistics = await statistics.gather(self._view.state)
                self._gathered = now
            return self._statistics

    def _uptime(self) -> int:
        return int(time.monotonic() - self._view.metrics.started)

    async def _ready(self, request: Request) -> Response:
        """Whether clients get answers here: a standby answers reads once it has a copy."""
        del request
        problems = self._problems()
        status = next(iter(problems.values()), "ok")
        page = {"status": status, "role": self._view.role, "problems": problems}
        return json_response(503 if problems else 200, page)

    def _problems(self) -> dict[str, str]:
        """Why clients do not get what they ask for, by name."""
        view, standby = self._view, self._view.standby
        found = {name: problem() for name, problem in self._components.items()}
        found["store"] = "changes cannot be stored" if view.is_failing else ""
        found["role"] = "replaced by another registry" if view.role == "replaced" else ""
        if standby is not None and not standby.is_current:
            found["replication"] = standby.problem or "nothing has been copied yet"
        return {name: problem for name, problem in found.items() if problem}

    async def _health(self, request: Request) -> Response:
        del request
        view = self._view
        state, standby = view.state, view.standby
        is_failing, is_replaced = view.is_failing, view.role == "replaced"
        health: dict[str, object] = {
            "status": "store failing" if is_failing else "replaced" if is_replaced else "ok",
            "version": wellknown.VERSION,
            "uptime_seconds": self._uptime(),
            "nodes_online": state.live_nodes - len(state.offline),
            "role": view.role,
            "cluster": view.term.cluster,
            "term": view.term.number,
        }
        if standby is not None:
            problem = {"problem": standby.problem} if standby.problem else {}
            health["replication"] = {"current": standby.is_current, "seq": standby.seq, **problem}
        elif view.publisher.is_enabled:
            health["replication"] = {
                "standbys": view.publisher.standbys,
                "seq": view.publisher.log.seq,
            }
        problems = {name: problem() for name, problem in self._components.items()}
        if problems:
            health["components"] = {name: text or "ok" for name, text in problems.items()}
        is_well = not (is_failing or is_replaced or any(problems.values()))
        return json_response(200 if is_well else 503, health)

    async def _metrics(self, request: Request) -> Response:
        self._own.statistics = await self._fresh()
        return await self._page.answer(request)

    async def _stats(self, request: Request) -> Response:
        is_local = request.is_local
        figures = await self._fresh()
        stats: dict[str, object] = {
            "total_nodes": figures.total_nodes,
            "active_nodes": figures.active_nodes,
            "total_trust_links": figures.trust_links,
            "total_requests": self._view.metrics.total,
            "unique_tags": figures.unique_tags,
            "task_executors": figures.task_executors,
            "networks": [
                _network(row, is_local=is_local)
                for row in figures.networks
                # Of which strangers hear nothing by other ways, either.
                if is_local or row.join_rule != "invite"
            ],
            "uptime_secs": self._uptime(),
        }
        if is_local:
            stats |= statistics.nodes_and_edges(self._view.state)
        return json_response(200, stats, is_shared=not is_local)

    async def _public_stats(self, request: Request) -> Response:
        del request
        state, metrics = self._view.state, self._view.metrics
        return json_response(
            200,
            {
                "server_time": int(time.time()),
                "uptime_seconds": self._uptime(),
                "active_nodes": state.live_nodes - len(state.offline),
                # Ever registered: ids are not given out twice.
                "total_nodes": len(state.nodes),
                "total_requests": metrics.total,
                "requests_per_sec": round(metrics.rate, 3),
                "components": {"registry": "ok"},
            },
            is_shared=True,
        )


def _network(row: NetworkFigures, *, is_local: bool) -> dict[str, object]:
    found: dict[str, object] = {"id": row.network_id, "name": row.name}
    if is_local or row.join_rule == "open":
        found["members"] = row.members
    if is_local or row.network_id == 0:
        # Of few members it would tell who is there.
        found["online_members"] = row.online
    return found
