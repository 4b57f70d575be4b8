"""Metrics of what was counted in plain integers, and those that every program has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from pilotstack import _logs, _serving, wellknown
from pilotstack.http.messages import Request, Response, metrics_response

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from pilotstack._figures import Durations


def counter(
    name: str, text: str, label: str = "", values: Mapping[str, float] | float = 0
) -> CounterMetricFamily:
    """A counter, or one for each value of a label. The name is without ``_total``."""
    if isinstance(values, int | float):
        return CounterMetricFamily(name, text, value=values)
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def gauge(
    name: str, text: str, label: str = "", values: Mapping[str, float] | float = 0
) -> GaugeMetricFamily:
    """A gauge, or one for each value of a label."""
    if isinstance(values, int | float):
        return GaugeMetricFamily(name, text, value=values)
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def histogram(
    name: str, text: str, label: str = "", values: Mapping[str, Durations] | None = None
) -> HistogramMetricFamily:
    """Durations by the value of a label; without a label, the only ones."""
    family = HistogramMetricFamily(name, text, labels=[label] if label else None)
    for value, durations in (values or {}).items():
        labels = [value] if label else []
        family.add_metric(labels, durations.cumulative(), durations.seconds)
    return family


class ProcessMetrics(Collector):
    """What every program tells about itself.

    Args:
        role: what it is.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self.started = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        labels = {"version": wellknown.VERSION, "role": self._role}
        yield InfoMetricFamily("pilot_build", "The program.", value=labels)
        uptime = time.monotonic() - self.started
        yield gauge("pilot_uptime_seconds", "Since the start.", values=uptime)
        times = time.process_time()
        yield counter("pilot_cpu_seconds", "Processor time of the process.", values=times)
        failures = dict(_serving.failures.counts)
        yield gauge("pilot_task_failures", "What should not fail, and did.", "task", dict(failures))
        lost = _logs.stderr_dropped()
        yield counter("pilot_log_lines_dropped", "Lines of the log that were lost.", values=lost)


class MetricsPage:
    """``/metrics``.

    Args:
        collectors: what is shown, beside nothing else.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._registry = CollectorRegistry()
        for collector in collectors:
            self._registry.register(collector)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)

    async def answer(self, request: Request) -> Response:
        """The metrics, to anybody who reaches the port: nothing in them names a node."""
        del request
        return metrics_response(self.render())
