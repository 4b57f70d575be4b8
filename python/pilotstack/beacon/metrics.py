"""What a beacon has done, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pilotstack._core import BeaconServer
from pilotstack.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from pilotstack.beacon import Beacon

_DROPPED: Final = "dropped_"
_GAUGES: Final = {
    "nodes": "Nodes at proven addresses.",
    "claims": "Nodes whose address is not proven.",
    "routes": "Nodes that other beacons serve.",
    "beacons": "Other beacons.",
    "waiting_bytes": "Bytes of relayed frames that wait to be sent.",
}


class BeaconMetrics(Collector):
    """The metrics of a beacon.

    Args:
        beacon: what is asked each time.
    """

    def __init__(self, beacon: Beacon) -> None:
        self._beacon = beacon
        self._texts = {
            **dict(BeaconServer.counter_names()),
            "socket_errors": "Datagrams that the socket could not send or receive.",
        }

    def collect(self) -> Iterator[Metric]:
        """The metrics; none after the beacon has ended."""
        try:
            report = self._beacon.report()
        except InternalError:
            return
        dropped = CounterMetricFamily(
            "pilot_beacon_dropped", "Datagrams dropped.", labels=["reason"]
        )
        for name, text in self._texts.items():
            if name.startswith(_DROPPED):
                dropped.add_metric([name.removeprefix(_DROPPED)], report[name])
            else:
                yield CounterMetricFamily(f"pilot_beacon_{name}", text, value=report[name])
        yield dropped
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"pilot_beacon_{name}", text, value=report[name])
