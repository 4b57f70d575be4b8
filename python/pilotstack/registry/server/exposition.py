"""A registry's metrics for Prometheus (``docs/reference/metrics.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pilotstack.observe.families import counter, gauge, histogram
from pilotstack.registry.server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pilotstack.registry.server.view import View

#: Requests with a counter of their own, by their name.
_EVENTS: Final = {
    "register": ("registrations", "Registrations, repeated ones included."),
    "deregister": ("deregistrations", "Nodes that said good-bye."),
    "report_trust": ("trust_reports", "Trust reported."),
    "revoke_trust": ("trust_revocations", "Trust revoked."),
    "request_handshake": ("handshake_requests", "Handshakes relayed."),
}
_GAUGES: Final = {
    "nodes_online": "Nodes heard of lately.",
    "nodes_total": "Registered nodes.",
    "trust_links": "Pairs of nodes that trust each other.",
    "task_executors": "Nodes that execute tasks.",
    "connections": "Connections of clients.",
    "held_polls": "Long polls that are held.",
    "standbys": "Standbys that follow.",
    "is_standby": "1 on a standby.",
    "term": "How often a standby has become the primary.",
}


class RegistryMetrics(Collector):
    """The metrics of one registry.

    Args:
        view: the registry.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        #: Aggregates of the state, as gathered last.
        self.statistics = Statistics()

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        yield from self._requests()
        metrics, view = self._view.metrics, self._view
        for name, (title, text) in _EVENTS.items():
            yield counter(f"pilot_{title}", text, values=metrics.succeeded(name))
        yield counter(
            "pilot_dropped_connections",
            "Connections that were cut.",
            "reason",
            dict(metrics.dropped_connections),
        )
        throttled = metrics.throttled_requests
        yield counter("pilot_throttled", "Requests that were over a limit.", values=throttled)
        text = "Requests with a wrong token or secret."
        yield counter("pilot_wrong_secrets", text, values=metrics.wrong_secrets)
        for name, value in self._gauges().items():
            yield gauge(f"pilot_{name}", _GAUGES[name], values=value)
        yield histogram(
            "pilot_registry_sync_seconds",
            "Waiting for the disk: one sync makes many changes durable.",
            values={"": view.syncs},
        )
        yield gauge(
            "pilot_registry_queue",
            "What waits: changes for the disk, bytes for standbys.",
            "queue",
            {"changes": view.waiting_changes, "standby_bytes": view.publisher.queued},
        )

    def _requests(self) -> Iterator[Metric]:
        metrics = self._view.metrics
        tallies = metrics.tallies
        counts: dict[str, float] = {name: t.durations.total for name, t in tallies.items()}
        yield counter("pilot_requests", "Requests.", "type", counts)
        refused: dict[str, float] = {name: tally.errors for name, tally in tallies.items()}
        yield counter("pilot_errors", "Requests that were refused.", "type", refused)
        results = CounterMetricFamily(
            "pilot_registry_operations",
            "Requests by their result: ok, or the code of the refusal.",
            labels=["type", "result"],
        )
        for (name, result), count in metrics.results.items():
            results.add_metric([name, result], count)
        yield results
        yield histogram(
            "pilot_request_duration_seconds",
            "From a request's arrival to its reply, the sync to disk included.",
            "type",
            {name: tally.durations for name, tally in tallies.items()},
        )

    def _gauges(self) -> dict[str, float]:
        view, statistics = self._view, self.statistics
        return {
            "nodes_online": statistics.active_nodes,
            "nodes_total": statistics.total_nodes,
            "trust_links": statistics.trust_links,
            "task_executors": statistics.task_executors,
            "connections": view.connections,
            "held_polls": view.held_polls,
            "standbys": view.publisher.standbys,
            "is_standby": view.standby is not None,
            "term": view.term.number,
        }
