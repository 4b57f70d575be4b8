"""Health and metrics of a gateway (``docs/reference/metrics.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from pilotstack.observe import pages
from pilotstack.observe.families import counter, gauge
from pilotstack.observe.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

    from pilotstack.gateway.control import Status
    from pilotstack.http.server import HttpServer
    from pilotstack.services.daemon_check import DaemonCheck
    from pilotstack.services.relaying import Relays


class GatewayMetrics(Collector):
    """The metrics of one gateway. None of them names an agent.

    Args:
        status: what it is and does.
        relays: its connections.
    """

    def __init__(self, status: Callable[[], Status], relays: Relays) -> None:
        self._status = status
        self._relays = relays

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        status, relays = self._status(), self._relays
        mapped = len(status.mappings)
        yield gauge("pilot_gateway_mappings", "Agents with a local IP.", values=mapped)
        yield gauge("pilot_gateway_connections", "Open connections.", values=len(relays))
        yield gauge("pilot_gateway_limit", "Connections at most.", values=relays.limit)
        yield counter("pilot_gateway_connections_made", "Connections.", values=relays.total)
        sent, received = relays.carried
        carried = {"sent": sent, "received": received}
        yield counter("pilot_gateway_bytes", "Bytes carried.", "direction", carried)
        text = "Connections and clients that were not served."
        yield counter("pilot_gateway_refused", text, "reason", dict(status.refused))


def http_server(
    address: str, status: Callable[[], Status], relays: Relays, check: DaemonCheck
) -> HttpServer:
    """What a gateway shows at ``host:port``. It works without its daemon, but serves nobody."""
    health = Health({}, {"daemon": check.problem})
    return pages.server(address, health, "gateway", GatewayMetrics(status, relays))
