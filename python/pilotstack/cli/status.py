"""Shows the daemon's state. These commands also run without a parser: see
:mod:`pilotstack.cli.quick`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack.cli.text import duration, members_of
from pilotstack.errors import Unavailable
from pilotstack.ipc.requests import GetInfo, ListPeers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.cli.text import Data
    from pilotstack.ipc.answers import Info, PeerInfo

#: Of rows of :func:`path_row`.
PEERS: Final = {
    "node": "node",
    "path": "path",
    "endpoint": "endpoint",
    "rtt": "rtt ms",
    "mtu": "mtu",
    "loss": "loss",
    "age": "age",
}
CANDIDATES: Final = {
    "node": "node",
    "endpoint": "candidate",
    "kind": "kind",
    "state": "state",
    "reason": "why",
}
CONNECTIONS: Final = {
    "id": "id",
    "state": "state",
    "local_port": "port",
    "remote_addr": "remote",
    "remote_port": "port",
    "bytes_sent": "sent",
    "bytes_recv": "received",
    "srtt_ms": "rtt ms",
    "retransmits": "retransmits",
    "cong_win": "window",
}


def _ask(settings: Settings) -> Info:
    with settings.session() as session:
        return session.ask(GetInfo())


def show_info(settings: Settings) -> None:
    """Shows the state of the node."""
    info = _ask(settings)

    def render(screen: Screen) -> None:
        screen.fields(info)
        if info.peer_list:
            screen.rows("peers", PEERS, [path_row(peer) for peer in info.peer_list])
        if info.conn_list:
            screen.rows("connections", CONNECTIONS, info.conn_list)

    settings.output.success(info, render)


def show_peers(settings: Settings, search: str = "", *, has_candidates: bool = False) -> None:
    """Shows peers whose id or endpoint contains ``search``, and the paths to them.

    Args:
        has_candidates: show the ways that were considered, too; JSON always has them.
    """
    output = settings.output
    with settings.session() as session:
        listed = session.ask(GetInfo()).peer_list
        detailed: dict[int, PeerInfo] = {}
        if has_candidates or output.is_json:
            try:
                detailed = {row.node_id: row for row in session.ask(ListPeers()).peers}
            except Unavailable:
                # An older daemon does not tell.
                detailed = {}
    found = [
        detailed.get(peer.node_id, peer)
        for peer in listed
        if search in str(peer.node_id) or search in peer.endpoint
    ]
    data = {
        "peers": [members_of(peer) for peer in found],
        "total": len(found),
        "encrypted": sum(peer.encrypted for peer in found),
    }

    def render(screen: Screen) -> None:
        screen.rows("peers", PEERS, [path_row(peer) for peer in found])
        if has_candidates:
            screen.rows("candidates", CANDIDATES, candidate_rows(found))

    output.success(data, render)


def path_row(peer: PeerInfo) -> Data:
    """A peer as a row of :data:`PEERS`; what was not measured is left empty."""
    state = peer.path or ("unknown" if peer.encrypted else "none yet")
    return {
        "node": peer.node_id,
        "path": state,
        "endpoint": peer.beacon if peer.relay else peer.endpoint,
        "rtt": f"{peer.rtt_ms:.1f}" if peer.rtt_ms else "",
        "mtu": peer.mtu or "",
        "loss": f"{peer.loss:.1%}" if peer.path else "",
        "age": duration(peer.path_age) if peer.path else "",
    }


def candidate_rows(peers: Iterable[PeerInfo]) -> Sequence[Data]:
    """Rows of :data:`CANDIDATES`."""
    return [
        {"node": peer.node_id, **members_of(candidate)}
        for peer in peers
        if peer.candidates is not UNSET
        for candidate in peer.candidates
    ]


def show_connections(settings: Settings) -> None:
    """Shows connections."""
    listed = _ask(settings).conn_list
    data = {"connections": [members_of(row) for row in listed], "total": len(listed)}
    settings.output.success(data, lambda screen: screen.rows("connections", CONNECTIONS, listed))
