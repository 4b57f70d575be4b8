"""What a daemon shows over HTTP.

Health and metrics name no peer, and are for everybody who reaches the port. The dashboard is for
who has the token, and is served on a loopback address only: the token is in a file beside the
drivers' socket, so whoever may use that may look.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from pilotstack import _files, _serving, wellknown
from pilotstack._resolving import source_of
from pilotstack.daemon.exposition import NodeMetrics
from pilotstack.errors import InternalError
from pilotstack.http.messages import Request, Response, json_response
from pilotstack.http.server import HttpServer
from pilotstack.observe import pages
from pilotstack.observe.dashboard import Dashboard
from pilotstack.observe.dashboard import view as v
from pilotstack.observe.health import Health
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from pilotstack.daemon.snapshot import Source
    from pilotstack.daemon.state import NodeState
    from pilotstack.observe.recent import Recent

#: Seconds between two states of the dashboard.
INTERVAL: Final = 2.0
#: Rows of streams and peers: those with most traffic, and those with a session.
MAX_STREAMS: Final = 200
MAX_PEERS: Final = 500
_MISDIRECTED: Final = 421
_NANOS_PER_MS: Final = 1e6


class Parts:
    """What the pages show.

    Args:
        state: the node.
        core: tells what it does.
        dropped: what the control plane and services dropped, by reason.
        waiting: what waits in the control plane, by the name of the queue.
        checks: problems by name, empty texts if there are none; whether it serves, and whether it
            is on the network.
        beacons: addresses, the preferred one first.
        trusted: nodes that this one trusts.
        recent: the last log records.
    """

    def __init__(
        self,
        state: NodeState,
        core: Source,
        *,
        dropped: Callable[[], Mapping[str, int]],
        waiting: Callable[[], Mapping[str, float]],
        checks: Mapping[str, Callable[[], str]],
        beacons: Callable[[], tuple[str, ...]],
        trusted: Callable[[], list[int]],
        recent: Recent,
    ) -> None:
        self.state = state
        self.core = core
        self.dropped = dropped
        self.waiting = waiting
        self.checks = checks
        self.beacons = beacons
        self.trusted = trusted
        self.recent = recent


class Pages:
    """The pages of a daemon.

    Args:
        parts: what they show.
        host: the address that they are served at; the dashboard needs one of loopback.
    """

    def __init__(self, parts: Parts, host: str) -> None:
        self._parts = parts
        self.token = secrets.token_urlsafe(32)
        self._health = Health({"core": self._core_problem}, parts.checks, self._members)
        self._view = _View(parts, self._health)
        metrics = NodeMetrics(
            parts.core, parts.dropped, parts.waiting, lambda: parts.state.is_registered
        )
        self._routes = pages.routes(self._health, "daemon", metrics)
        self.has_dashboard = source_of(host)[1]

    @property
    def routes(self) -> Mapping[str, Callable[[Request], Awaitable[Response]]]:
        """What answers each path."""
        if not self.has_dashboard:
            return self._routes
        dashboard = Dashboard(self._view.state, lambda r: r.shows(self.token), INTERVAL)
        routes = {**self._routes, **dashboard.routes}
        return {path: _guarded(route) for path, route in routes.items()}

    def _core_problem(self) -> str:
        try:
            self._parts.core.snapshot()
        except InternalError as error:
            return str(error)
        return ""

    def _members(self) -> Mapping[str, object]:
        state = self._parts.state
        return {"node_id": state.node_id, "registered": state.is_registered}


def _guarded(
    route: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Answers only those who call this host by its own name: a site in a browser of this host that
    had its name resolved to loopback is another origin to us, but not to the browser."""

    async def answer(request: Request) -> Response:
        if not (request.is_from_here and request.has_local_name):
            hint = "open the page at 127.0.0.1, [::1] or localhost"
            return json_response(_MISDIRECTED, {"error": "not a name of this host", "hint": hint})
        return await route(request)

    return answer


class _View:
    """The dashboard's state of a daemon."""

    def __init__(self, parts: Parts, health: Health) -> None:
        self._parts = parts
        self._health = health
        self._started = time.monotonic()
        #: Bytes by stream, at the time before.
        self._before: dict[int, int] = {}

    async def state(self, is_operator: bool) -> v.Page | None:
        """What an operator sees; others see nothing."""
        if not is_operator:
            return None
        parts, core = self._parts, self._parts.core.snapshot()
        state = parts.state
        connections, peers = core["conn_list"], core["peer_list"]
        assert isinstance(connections, list), "rows of connections"
        assert isinstance(peers, list), "rows of peers"
        trusted = parts.trusted()
        return v.Page(
            role="daemon",
            name=state.hostname or str(state.address),
            address=str(state.address),
            version=wellknown.VERSION,
            uptime=time.monotonic() - self._started,
            time=time.time(),
            problems=self._health.problems(),
            is_operator=True,
            tiles=_tiles(core, len(trusted)),
            networks=[v.NetworkRow(number, f"network {number}") for number in state.memberships],
            beacons=_beacons(parts.beacons()),
            peers=[_peer(row) for row in _first_peers(peers)],
            streams=[_stream(row) for row in self._busiest(connections)],
            totals={"peers": len(peers), "streams": len(connections)},
            events=parts.recent.entries(),
        )

    def _busiest(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The streams that moved most bytes since the time before, in the order of their ids."""
        moved = {row["id"]: row["bytes_sent"] + row["bytes_recv"] for row in rows}
        before, self._before = self._before, moved
        if len(rows) > MAX_STREAMS:
            rows = sorted(rows, key=lambda row: before.get(row["id"], 0) - moved[row["id"]])
        return sorted(rows[:MAX_STREAMS], key=lambda row: row["id"])


def _tiles(core: Mapping[str, Any], trusted: int) -> list[v.Tile]:
    return [
        v.Tile("Peers with a session", core["encrypted_peers"]),
        v.Tile("Trusted nodes", trusted),
        v.Tile("Open streams", core["connections"]),
        v.Tile("Sent", core["bytes_sent"], "bytes", is_total=True),
        v.Tile("Received", core["bytes_recv"], "bytes", is_total=True),
        v.Tile(
            "Dropped",
            sum(value for name, value in core.items() if name.startswith("dropped_")),
            is_total=True,
        ),
    ]


def _beacons(addresses: tuple[str, ...]) -> list[v.BeaconRow]:
    return [
        v.BeaconRow(address, "preferred" if number == 0 else "")
        for number, address in enumerate(addresses)
    ]


def _first_peers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (not row["encrypted"], row["node_id"]))[:MAX_PEERS]


def _peer(row: dict[str, Any]) -> v.PeerRow:
    return v.PeerRow(
        address=str(Address(0, row["node_id"])),
        path=row["path"],
        rtt_ms=round(1000 * row["rtt"], 3),
        loss=round(row["loss"], 4),
        mtu=row["mtu"],
        age=round(row["path_age"]),
    )


def _stream(row: dict[str, Any]) -> v.StreamRow:
    return v.StreamRow(
        id=row["id"],
        peer=row["remote_addr"],
        port=_service(row["local_port"], row["remote_port"]),
        state=row["state"],
        congestion=row["congestion"],
        sent=row["bytes_sent"],
        received=row["bytes_recv"],
        window=row["cong_win"],
        in_flight=row["in_flight"],
        rtt_ms=round(row["srtt_ns"] / _NANOS_PER_MS, 3),
        repeated=row["retransmits"] + row["fast_retx"],
    )


def _service(local: int, remote: int) -> int:
    """The port that names the service: of both, the one that the system did not choose."""
    return min(local, remote)


class Served:
    """The pages of a daemon on a port, and the file with the address of the dashboard; an async
    context manager.

    Args:
        address: ``host:port``.
        parts: what is shown.
        link: the file; none is written if there is no dashboard.
    """

    def __init__(self, address: str, parts: Parts, link: Path | None) -> None:
        host, port = _serving.split_address(address)
        self._pages = Pages(parts, _literal(host))
        #: The file, if there is one.
        self.link = link if self._pages.has_dashboard else None
        self.server = HttpServer(host, port, self._pages.routes)

    async def __aenter__(self) -> Served:
        await self.server.__aenter__()
        if self.link is not None:
            _files.replace(self.link, self._url())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.link is not None:
            self.link.unlink(missing_ok=True)
        await self.server.__aexit__(None, None, None)

    @property
    def address(self) -> str:
        """Where it listens."""
        return _serving.join_address(*self.server.address)

    def _url(self) -> Iterator[bytes]:
        # A fragment is neither sent to servers nor kept in their logs.
        yield f"http://{self.address}/#token={self._pages.token}\n".encode()


def _literal(host: str) -> str:
    """The IP address of a host that is one, or of ``localhost``."""
    return "127.0.0.1" if host == "localhost" else host
