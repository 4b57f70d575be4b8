"""Metrics for Prometheus. Labels come from a fixed set, whatever clients send."""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pilotstack import _serving
from pilotstack.registry.protocol.codec import REQUESTS
from pilotstack.registry.protocol.requests.identity import Deregister, Register
from pilotstack.registry.protocol.requests.trust import (
    ReportTrust,
    RequestHandshake,
    RevokeTrust,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.server.statistics import Statistics

#: Upper bounds in seconds, those of existing dashboards.
_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
_UNKNOWN: Final = "unknown"
_KINDS: Final = (*sorted(REQUESTS), _UNKNOWN)
#: Requests with a counter of their own.
_EVENTS: Final = {
    Register: ("registrations", "Registrations, repeated ones included."),
    Deregister: ("deregistrations", "Nodes that said good-bye."),
    ReportTrust: ("trust_reports", "Trust reported."),
    RevokeTrust: ("trust_revocations", "Trust revoked."),
    RequestHandshake: ("handshake_requests", "Handshakes relayed."),
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


_BOUNDS: Final = [*(str(bound) for bound in _BUCKETS), "+Inf"]


class _Tally:
    """Requests of one type."""

    __slots__ = ("buckets", "errors", "seconds")

    def __init__(self) -> None:
        self.errors = 0
        self.seconds = 0.0
        #: Requests by duration; the last took longer than any bound.
        self.buckets = [0] * len(_BOUNDS)

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.buckets)


class _Tallies(Collector):
    """Counts requests in plain integers and converts them when metrics are read: the library's
    counters take a lock for each increment."""

    def __init__(self) -> None:
        self.by_name = {name: _Tally() for name in _KINDS}
        self.by_kind = {kind: self.by_name[name] for name, kind in REQUESTS.items()}
        self.unknown = self.by_name[_UNKNOWN]
        self._created = time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        requests = CounterMetricFamily("pilot_requests", "Requests.", labels=["type"])
        errors = CounterMetricFamily("pilot_errors", "Requests that were refused.", labels=["type"])
        seconds = HistogramMetricFamily(
            "pilot_request_duration_seconds",
            "From a request's arrival to its reply, the sync to disk included.",
            labels=["type"],
        )
        for kind, tally in self.by_name.items():
            requests.add_metric([kind], tally.requests, created=self._created)
            errors.add_metric([kind], tally.errors, created=self._created)
            buckets = list(zip(_BOUNDS, accumulate(tally.buckets), strict=True))
            seconds.add_metric([kind], buckets=buckets, sum_value=tally.seconds)
            seconds.add_sample(f"{seconds.name}_created", {"type": kind}, self._created)
        yield from (requests, errors, seconds)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        #: By the monotonic clock.
        self.started = time.monotonic()
        self.total = 0
        #: Requests per second, over about a minute.
        self.rate = 0.0
        self._total_before = 0
        self._tallies = _Tallies()
        self._registry.register(self._tallies)
        self._events = {kind: self._counter(*row) for kind, row in _EVENTS.items()}
        dropped = self._counter("dropped_connections", "Connections that were cut.", ("reason",))
        self._dropped = {
            reason: dropped.labels(reason)
            for reason in (
                *("protocol", "timeout", "seats", "evicted", "flood", "memory", "tls", "failure"),
                *("gone", "store"),
            )
        }
        self._throttled = self._counter("throttled", "Requests that were over a limit.")
        self._guesses = self._counter("wrong_secrets", "Requests with a wrong token or secret.")
        self._gauges = {
            name: Gauge(f"pilot_{name}", text, registry=self._registry)
            for name, text in _GAUGES.items()
        }
        self._failures = Gauge(
            "pilot_task_failures",
            "What should not fail, and did.",
            ("task",),
            registry=self._registry,
        )
        Gauge("pilot_uptime_seconds", "Since the start.", registry=self._registry).set_function(
            lambda: time.monotonic() - self.started
        )

    def add(self, collector: Collector) -> None:
        """Adds the metrics of something else that runs in this process."""
        self._registry.register(collector)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"pilot_{name}", text, labels, registry=self._registry)

    def answered(self, kind: type[Request[Reply]], *, is_error: bool, seconds: float) -> None:
        """Counts a request."""
        tally = self._tallies.by_kind.get(kind) or self._tallies.unknown
        self.total += 1
        tally.buckets[bisect_left(_BUCKETS, seconds)] += 1
        tally.seconds += seconds
        if is_error:
            tally.errors += 1
        elif kind in self._events:
            self._events[kind].inc()

    def throttled(self) -> None:
        """Counts a request over a limit."""
        self._throttled.inc()

    def guessed(self) -> None:
        """Counts a request with a wrong secret."""
        self._guesses.inc()

    def dropped(self, reason: str) -> None:
        """Counts a connection that was cut."""
        self._dropped[reason].inc()

    def tick(self, seconds: float) -> None:
        """Updates the rate; ``seconds`` have passed since the last call."""
        current = (self.total - self._total_before) / seconds
        self._total_before = self.total
        weight = min(1.0, seconds / 60.0)
        self.rate += weight * (current - self.rate)

    def render(self, statistics: Statistics, **gauges: float) -> bytes:
        """The text format of Prometheus."""
        known = {
            "nodes_online": statistics.active_nodes,
            "nodes_total": statistics.total_nodes,
            "trust_links": statistics.trust_links,
            "task_executors": statistics.task_executors,
            **gauges,
        }
        for name, value in known.items():
            self._gauges[name].set(value)
        for task, times in _serving.failures.counts.items():
            self._failures.labels(task).set(times)
        return generate_latest(self._registry)
