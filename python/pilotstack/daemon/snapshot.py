"""Counters and rows of the core at one moment, as types."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pilotstack._figures import Durations
from pilotstack.ipc.answers import ConnectionInfo, PeerInfo  # noqa: TC001 - msgspec reads them
from pilotstack.ipc.layout import read_address

if TYPE_CHECKING:
    from collections.abc import Mapping

_NANOS_PER_MS: Final = 1e6
_DROPPED: Final = "dropped_"
#: Counters of what happened on paths begin with one of these.
_PATHS: Final = ("path_", "relay", "punch", "predict", "upgrade")
#: Candidates of a peer that are shown at most.
_MAX_CANDIDATES: Final = 16
_CANDIDATE: Final = ("endpoint", "kind", "state", "reason")
#: Times of a connection, which the core tells in nanoseconds and the daemon in milliseconds.
_TIMES: Final = ("srtt", "rttvar", "min_rtt")
#: Upper bounds of the core's histograms, in seconds.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
#: States as existing clients know them.
_STATES: Final = {
    "SYN-SENT": "SYN_SENT",
    "SYN-RECEIVED": "SYN_RECV",
    "FIN-WAIT-1": "FIN_WAIT",
    "FIN-WAIT-2": "FIN_WAIT",
    "CLOSE-WAIT": "CLOSE_WAIT",
    "CLOSING": "FIN_WAIT",
    "LAST-ACK": "CLOSE_WAIT",
    "TIME-WAIT": "TIME_WAIT",
}


class Source(Protocol):
    """The part of the core that tells its state."""

    def snapshot(self) -> Mapping[str, object]:
        """Counters by name, and rows of peers and connections."""


class Times(msgspec.Struct, frozen=True, array_like=True):
    """How often something took how long."""

    #: By the bounds of :data:`BOUNDS`; the last is beyond all.
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def durations(self) -> Durations:
        """The same for metrics."""
        shown = Durations(BOUNDS)
        shown.counts, shown.seconds = self.counts, self.seconds
        return shown


class ServiceFigures(msgspec.Struct, frozen=True):
    """Streams of one service, those that have ended, too."""

    streams: int
    bytes_sent: int
    bytes_recv: int
    segs_sent: int
    retransmits: int
    fast_retx: int
    loss_probes: int
    spurious_retx: int


class Figures(msgspec.Struct, frozen=True):
    """Sums since the start."""

    #: Bytes sent and received, by kind of path.
    paths: dict[str, tuple[int, int]] = {}
    #: By port; 0 are further ports and those that the system chose.
    services: dict[int, ServiceFigures] = {}
    #: By reason.
    failed_dials: dict[str, int] = {}
    rtt: Times = Times()
    dial: Times = Times()
    handshake: Times = Times()


class Snapshot(msgspec.Struct, frozen=True):
    """The state of the core."""

    connections: int
    ports: int
    peers: int
    encrypted_peers: int
    bytes_sent: int
    bytes_recv: int
    pkts_sent: int
    pkts_recv: int
    #: Frames that were opened.
    opened: int
    ptb_recv: int
    #: Bytes of memory held for readers, and for peers that have not acknowledged.
    recv_held: int
    send_held: int
    peer_list: tuple[PeerInfo, ...]
    conn_list: tuple[ConnectionInfo, ...]
    #: What was dropped, by reason.
    dropped: dict[str, int]
    #: What happened on paths, by the counter's name.
    path_events: dict[str, int]
    figures: Figures = Figures()
    #: Connected drivers.
    clients: int = 0
    moved: int = 0
    rekeyed: int = 0
    cookies_sent: int = 0

    @property
    def paths(self) -> dict[str, int]:
        """Peers by the kind of path that is in use."""
        return dict(Counter(row.path for row in self.peer_list if row.path))


def take(core: Source) -> Snapshot:
    """The core's state now.

    Raises:
        RuntimeError: its thread does not answer.
    """
    found = core.snapshot()
    connections, peers = found["conn_list"], found["peer_list"]
    assert isinstance(connections, list), "rows of connections"
    assert isinstance(peers, list), "rows of peers"
    members = {
        **found,
        "peer_list": [_peer(row) for row in peers],
        "conn_list": [_connection(row) for row in connections],
        "dropped": {
            name.removeprefix(_DROPPED): value
            for name, value in found.items()
            if name.startswith(_DROPPED)
        },
        "path_events": {name: value for name, value in found.items() if name.startswith(_PATHS)},
    }
    return msgspec.convert(members, Snapshot, dec_hook=read_address)


def _peer(row: dict[str, object]) -> dict[str, object]:
    shown = dict(row)
    rtt, candidates = shown.pop("rtt", 0.0), shown.pop("candidates", [])
    assert isinstance(rtt, int | float), "seconds"
    assert isinstance(candidates, list), "rows of candidates"
    shown["rtt_ms"] = round(1000 * rtt, 3)
    shown["relay"] = shown.get("path") == "relay"
    shown["candidates"] = [
        dict(zip(_CANDIDATE, each, strict=True)) for each in candidates[:_MAX_CANDIDATES]
    ]
    return shown


def _connection(row: dict[str, object]) -> dict[str, object]:
    shown = dict(row)
    shown["state"] = _STATES.get(str(row["state"]), row["state"])
    for name in _TIMES:
        nanos = shown.pop(f"{name}_ns")
        assert isinstance(nanos, int), "a time"
        shown[f"{name}_ms"] = round(nanos / _NANOS_PER_MS, 3)
    return shown
