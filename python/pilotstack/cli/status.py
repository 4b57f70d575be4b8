"""Shows the daemon's state. These commands also run without a parser: see
:mod:`pilotstack.cli.quick`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.cli.text import members_of
from pilotstack.ipc.requests import GetInfo

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.answers import Info

PEERS: Final = {
    "node_id": "node",
    "endpoint": "endpoint",
    "encrypted": "encrypted",
    "authenticated": "authenticated",
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
            screen.rows("peers", PEERS, info.peer_list)
        if info.conn_list:
            screen.rows("connections", CONNECTIONS, info.conn_list)

    settings.output.success(info, render)


def show_peers(settings: Settings, search: str = "") -> None:
    """Shows peers whose id or endpoint contains ``search``."""
    listed = _ask(settings).peer_list
    found = [peer for peer in listed if search in str(peer.node_id) or search in peer.endpoint]
    data = {
        "peers": [members_of(peer) for peer in found],
        "total": len(found),
        "encrypted": sum(peer.encrypted for peer in found),
    }
    settings.output.success(data, lambda screen: screen.rows("peers", PEERS, found))


def show_connections(settings: Settings) -> None:
    """Shows connections."""
    listed = _ask(settings).conn_list
    data = {"connections": [members_of(row) for row in listed], "total": len(listed)}
    settings.output.success(data, lambda screen: screen.rows("connections", CONNECTIONS, listed))
