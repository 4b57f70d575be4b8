"""The pages that every program has at ``--http``: health and metrics
(``docs/reference/metrics.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack import _serving
from pilotstack.http.server import HttpServer
from pilotstack.observe.families import MetricsPage, ProcessMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client.registry import Collector

    from pilotstack.http.messages import Request, Response
    from pilotstack.observe.health import Health


def routes(
    health: Health, role: str, *collectors: Collector
) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """What answers each path.

    Args:
        role: what the program is, as its metrics say.
        collectors: its metrics, beside those of every process.
    """
    metrics = MetricsPage([ProcessMetrics(role), *collectors])
    return {
        "/healthz": health.healthz,
        "/readyz": health.readyz,
        "/metrics": metrics.answer,
    }


def server(address: str, health: Health, role: str, *collectors: Collector) -> HttpServer:
    """A server of these pages at ``host:port``.

    Raises:
        InvalidArgument: the address is malformed.
    """
    return HttpServer(*_serving.split_address(address), routes(health, role, *collectors))
