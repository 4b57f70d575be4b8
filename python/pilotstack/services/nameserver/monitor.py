"""Health and metrics of a nameserver (``docs/reference/metrics.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pilotstack.observe import pages
from pilotstack.observe.families import counter, gauge
from pilotstack.observe.health import Health

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pilotstack.http.server import HttpServer
    from pilotstack.services.daemon_check import DaemonCheck
    from pilotstack.services.limits import Limited
    from pilotstack.services.nameserver.server import Nameserver


class NameserverMetrics(Collector):
    """The metrics of one nameserver.

    Args:
        server: answers.
        limited: its streams.
    """

    def __init__(self, server: Nameserver, limited: Limited) -> None:
        self._server = server
        self._limited = limited

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        server = self._server
        answers = CounterMetricFamily(
            "pilot_nameserver_answers",
            "Answers by kind of request and result: ok, or refused.",
            labels=["type", "result"],
        )
        for (kind, result), count in sorted(server.answers.items()):
            answers.add_metric([kind, result], count)
        yield answers
        yield gauge("pilot_nameserver_records", "Records.", values=len(server.zone))
        streams = self._limited.streams
        yield gauge("pilot_nameserver_streams", "Requests that are served.", values=streams)
        dropped = {"busy": self._limited.refused, **server.dropped}
        yield counter("pilot_nameserver_dropped", "Requests dropped.", "reason", dict(dropped))


def http_server(
    address: str, server: Nameserver, limited: Limited, check: DaemonCheck
) -> HttpServer:
    """What a nameserver shows at ``host:port``. Without its daemon it serves nobody."""
    health = Health({}, {"daemon": check.problem})
    return pages.server(address, health, "nameserver", NameserverMetrics(server, limited))
