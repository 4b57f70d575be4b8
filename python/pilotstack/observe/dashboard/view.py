"""What the dashboard shows, as types. The page has the same names (``assets/app.js``)."""

from __future__ import annotations

import msgspec

from pilotstack.observe.recent import Entry  # noqa: TC001 - msgspec reads it


class Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of the page."""


class Tile(Shown, frozen=True):
    """A figure in large print."""

    label: str
    value: float
    #: ``bytes``, ``seconds``, or empty for a number.
    unit: str = ""
    #: It only grows, and its rate is of interest.
    is_total: bool = False


class NodeRow(Shown, frozen=True):
    """A node of the network."""

    address: str
    hostname: str = ""
    online: bool = False
    public: bool = False
    trust_links: int = 0
    tags: tuple[str, ...] = ()


class NetworkRow(Shown, frozen=True):
    """A network; what the viewer may not know is left out."""

    id: int
    name: str
    join_rule: str = ""
    members: int | None = None
    online: int | None = None


class BeaconRow(Shown, frozen=True):
    """A beacon."""

    address: str
    #: What it is to us.
    state: str = ""


class PeerRow(Shown, frozen=True):
    """A peer of a daemon."""

    address: str
    path: str = ""
    rtt_ms: float = 0.0
    loss: float = 0.0
    mtu: int = 0
    #: Seconds for which the path has been in use.
    age: float = 0.0


class StreamRow(Shown, frozen=True):
    """A stream of a daemon. Bytes are sums; the page draws their rate."""

    id: int
    peer: str
    port: int
    state: str
    congestion: str = ""
    sent: int = 0
    received: int = 0
    window: int = 0
    in_flight: int = 0
    rtt_ms: float = 0.0
    #: Segments sent again.
    repeated: int = 0


class Page(Shown, frozen=True, kw_only=True):
    """The whole state. Lists that a program does not have are absent; empty ones are empty."""

    role: str
    name: str
    address: str = ""
    version: str
    uptime: float
    #: Unix seconds.
    time: float
    #: What does not work, by name.
    problems: dict[str, str] = {}
    #: The viewer has shown a token, or needs none.
    is_operator: bool = False
    tiles: list[Tile] = []
    networks: list[NetworkRow] | None = None
    nodes: list[NodeRow] | None = None
    #: Pairs of addresses that trust each other.
    trust: list[tuple[str, str]] | None = None
    beacons: list[BeaconRow] | None = None
    peers: list[PeerRow] | None = None
    streams: list[StreamRow] | None = None
    #: How many there are, if the lists are cut short.
    totals: dict[str, int] = {}
    events: list[Entry] | None = None
