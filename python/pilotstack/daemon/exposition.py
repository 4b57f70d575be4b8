"""A daemon's metrics for Prometheus (``docs/reference/metrics.md``). None of them names a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pilotstack.daemon import snapshot as snapshots
from pilotstack.errors import InternalError
from pilotstack.observe.families import counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from pilotstack.daemon.snapshot import Figures, Snapshot, Source

#: Kinds of paths, those that are not in use, too.
_PATHS: Final = ("lan", "ipv6", "direct", "relay")
#: Retransmissions of a service, by the member and the value of the label.
_RETRANSMISSIONS: Final = {
    "retransmits": "timeout",
    "fast_retx": "fast",
    "loss_probes": "probe",
    "spurious_retx": "spurious",
}


class NodeMetrics(Collector):
    """The metrics of one daemon.

    Args:
        core: tells what it does.
        dropped: what the control plane and services dropped, by reason.
        waiting: what waits in the control plane, by the name of the queue.
        is_registered: whether the registry knows the node.
    """

    def __init__(
        self,
        core: Source,
        dropped: Callable[[], Mapping[str, int]],
        waiting: Callable[[], Mapping[str, float]],
        is_registered: Callable[[], bool],
    ) -> None:
        self._core = core
        self._dropped = dropped
        self._waiting = waiting
        self._is_registered = is_registered

    def collect(self) -> Iterator[Metric]:
        """The metrics; none after the core has ended."""
        try:
            core = snapshots.take(self._core)
        except InternalError:
            return
        yield from self._node(core)
        yield from _traffic(core.figures)
        yield from _times(core.figures)

    def _node(self, core: Snapshot) -> Iterator[Metric]:
        registered = float(self._is_registered())
        yield gauge("pilot_node_registered", "1 if the registry knows it.", values=registered)
        paths = dict.fromkeys(_PATHS, 0.0) | core.paths
        yield gauge("pilot_node_peers", "Peers with a session, by their path.", "path", paths)
        yield gauge("pilot_node_streams", "Open streams.", values=core.connections)
        yield gauge("pilot_node_ports", "Ports that programs listen on.", values=core.ports)
        yield gauge("pilot_node_drivers", "Connected programs.", values=core.clients)
        packets = {"sent": core.pkts_sent, "received": core.pkts_recv}
        yield counter("pilot_node_packets", "Datagrams of the tunnel.", "direction", packets)
        dropped = {**core.dropped, **self._dropped()}
        text = "What was dropped, by the reason: docs/reference/counters.md."
        yield counter("pilot_node_dropped", text, "reason", dict(dropped))
        events: dict[str, float] = {
            **core.path_events,
            "moved": core.moved,
            "rekeyed": core.rekeyed,
            "cookies_sent": core.cookies_sent,
        }
        text = "What happened to paths and peers: docs/reference/counters.md."
        yield counter("pilot_node_events", text, "event", events)
        held = {"receive_bytes": core.recv_held, "send_bytes": core.send_held}
        text = "What waits: bytes for readers and for acknowledgements, requests of programs, "
        text += "lookups, strangers and handshakes for an answer."
        yield gauge("pilot_node_queue", text, "queue", {**held, **self._waiting()})


def _traffic(figures: Figures) -> Iterator[Metric]:
    by_path = CounterMetricFamily(
        "pilot_node_path_bytes",
        "Bytes of datagrams by the kind of path.",
        labels=["path", "direction"],
    )
    for path, (sent, received) in figures.paths.items():
        by_path.add_metric([path, "sent"], sent)
        by_path.add_metric([path, "received"], received)
    yield by_path
    streams: dict[str, float] = {}
    text = "Bytes of user data by the port of the service; 0 are those without one of their own."
    by_port = CounterMetricFamily("pilot_node_service_bytes", text, labels=["port", "direction"])
    repeated = CounterMetricFamily(
        "pilot_node_retransmissions",
        "Segments sent again, by port and reason; spurious ones are among the others.",
        labels=["port", "reason"],
    )
    segments: dict[str, float] = {}
    for number, service in sorted(figures.services.items()):
        port = str(number)
        streams[port], segments[port] = service.streams, service.segs_sent
        by_port.add_metric([port, "sent"], service.bytes_sent)
        by_port.add_metric([port, "received"], service.bytes_recv)
        for member, reason in _RETRANSMISSIONS.items():
            repeated.add_metric([port, reason], getattr(service, member))
    yield counter("pilot_node_service_streams", "Streams by port, open or not.", "port", streams)
    yield by_port
    yield counter("pilot_node_segments", "Data segments sent, by port.", "port", segments)
    yield repeated


def _times(figures: Figures) -> Iterator[Metric]:
    failed = dict(figures.failed_dials)
    yield counter("pilot_node_dials_failed", "Dials that failed.", "reason", dict(failed))
    for name, times, text in (
        ("rtt", figures.rtt, "Round trips of streams."),
        ("dial", figures.dial, "From a dial to the established stream."),
        ("handshake", figures.handshake, "From our first key to the first frame that opened."),
    ):
        yield histogram(f"pilot_node_{name}_seconds", text, values={"": times.durations()})
