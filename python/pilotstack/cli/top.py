"""``pilotctl top``: peers, streams, rates and paths, looked at again and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click
import msgspec

from pilotstack import _commands
from pilotstack.cli.context import global_options, reported
from pilotstack.cli.durations import Duration
from pilotstack.cli.text import duration, members_of, size
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.session import ControlSession
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.answers import ConnectionInfo, Info

#: Rows of streams on a screen; JSON has all that the daemon tells.
_ROWS: Final = 20
PEERS: Final = {"node": "node", "path": "path", "rtt": "rtt ms", "loss": "loss", "age": "age"}
STREAMS: Final = {
    "id": "id",
    "peer": "peer",
    "sending": "out/s",
    "receiving": "in/s",
    "rtt": "rtt ms",
    "waits": "waits for",
}


class Stream(msgspec.Struct):
    """A connection, and what it did since the last look. Rates are bytes per second."""

    id: int
    peer: str
    state: str
    bytes_sent: int
    bytes_recv: int
    send_rate: float
    recv_rate: float
    rtt_ms: float
    cong_win: int
    in_flight: int
    retransmits: int
    #: What limits sending: ``window`` of the peer, ``congestion``, or ``nothing``.
    limit: str


class Peer(msgspec.Struct):
    """A peer and the path in use."""

    node_id: int
    path: str
    endpoint: str
    encrypted: bool
    rtt_ms: float
    mtu: int
    loss: float
    path_age: float


class Totals(msgspec.Struct):
    """Of the tunnel. Rates are per second."""

    peers: int
    connections: int
    bytes_sent: int
    bytes_recv: int
    send_rate: float
    recv_rate: float
    packets_sent_rate: float
    packets_recv_rate: float
    paths: dict[str, int]
    dropped: int


class Look(msgspec.Struct):
    """What there was at one moment."""

    node: dict[str, object]
    #: Seconds since the last look, of which rates are; of the first one the daemon's whole life.
    seconds: float
    totals: Totals
    peers: list[Peer]
    streams: list[Stream]


@_commands.command()
@click.option("--once", is_flag=True, help="Look once; rates are those of the daemon's whole life.")
@click.option(
    "--interval", type=Duration(), default=1.0, show_default="1s", help="Between two looks."
)
@click.option("--count", type=click.IntRange(0), default=0, help="Looks; 0 never ends.")
@global_options
@reported
def top(settings: Settings, once: bool, interval: float, count: int) -> None:
    """Watch peers, streams, rates and paths, until interrupted.

    With JSON it prints a line for each look.
    """
    output = settings.output
    with settings.session() as session:
        looks = _looks(session, interval, 1 if once else count)
        if output.is_json:
            for look in looks:
                output.success(look)
            return
        screen = output.screen
        if not once and screen.is_terminal:
            _watch(screen, looks)
            return
        for look in looks:
            screen.print(page(look))


def _watch(screen: Screen, looks: Iterator[Look]) -> None:
    from rich.live import Live

    # On the screen that full-screen programs have, so that what was there before comes back.
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(page(look), refresh=True)


def _looks(session: ControlSession, interval: float, count: int) -> Iterator[Look]:
    """Looks at the daemon, one after the other."""
    before: Info | None = None
    seen = 0.0
    number = 0
    while True:
        info, now = session.ask(r.GetInfo()), time.monotonic()
        yield compare(before, info, now - seen if before is not None else float(info.uptime_secs))
        before, seen, number = info, now, number + 1
        if number == count:
            return
        time.sleep(interval)


def compare(before: Info | None, now: Info, seconds: float) -> Look:
    """What happened between two looks.

    Args:
        before: the one before; ``None`` means nothing had happened yet.
        now: the last one.
        seconds: between them.
    """
    elapsed = max(seconds, 0.001)

    def rate(name: str) -> float:
        last: int = getattr(before, name) if before is not None else 0
        more: int = getattr(now, name) - last
        return round(max(0, more) / elapsed, 1)

    known = {row.id: row for row in before.conn_list} if before is not None else {}
    streams = [_stream(row, known.get(row.id), elapsed) for row in now.conn_list]
    streams.sort(key=lambda each: (-(each.send_rate + each.recv_rate), each.id))
    peers = [
        Peer(
            node_id=peer.node_id,
            path=peer.path or ("unknown" if peer.encrypted else "none yet"),
            endpoint=peer.beacon if peer.relay else peer.endpoint,
            encrypted=peer.encrypted,
            rtt_ms=peer.rtt_ms,
            mtu=peer.mtu,
            loss=peer.loss,
            path_age=peer.path_age,
        )
        for peer in now.peer_list
    ]
    totals = Totals(
        peers=now.peers,
        connections=now.connections,
        bytes_sent=now.bytes_sent,
        bytes_recv=now.bytes_recv,
        send_rate=rate("bytes_sent"),
        recv_rate=rate("bytes_recv"),
        packets_sent_rate=rate("pkts_sent"),
        packets_recv_rate=rate("pkts_recv"),
        paths=now.paths,
        dropped=sum(now.dropped.values()),
    )
    node: dict[str, object] = {
        "node_id": now.node_id,
        "address": str(now.address),
        "hostname": now.hostname,
        "uptime_secs": now.uptime_secs,
    }
    return Look(node, round(seconds, 3), totals, peers, streams)


def _stream(row: ConnectionInfo, before: ConnectionInfo | None, seconds: float) -> Stream:
    sent = row.bytes_sent - (before.bytes_sent if before is not None else 0)
    received = row.bytes_recv - (before.bytes_recv if before is not None else 0)
    return Stream(
        id=row.id,
        peer=str(row.remote),
        state=row.state,
        bytes_sent=row.bytes_sent,
        bytes_recv=row.bytes_recv,
        send_rate=round(max(0, sent) / seconds, 1),
        recv_rate=round(max(0, received) / seconds, 1),
        rtt_ms=row.srtt_ms,
        cong_win=row.cong_win,
        in_flight=row.in_flight,
        retransmits=row.retransmits + row.fast_retx,
        limit=_limit(row),
    )


def _limit(row: ConnectionInfo) -> str:
    """What keeps the sender from sending more now."""
    room = row.max_segment
    if not row.in_flight:
        return "nothing"
    if row.in_flight + room > row.peer_recv_win >= 0:
        return "window"
    return "congestion" if row.in_flight + room > row.cong_win else "nothing"


def page(look: Look) -> RenderableType:
    """A look for people."""
    from rich.console import Group
    from rich.text import Text

    from pilotstack.cli.screen import Rows

    totals, node = look.totals, look.node
    uptime = node["uptime_secs"]
    assert isinstance(uptime, int)
    name = f"{node['hostname']} " if node["hostname"] else ""
    lines = [
        f"{name}{node['address']}, up {duration(uptime)}",
        f"out {size(totals.send_rate)}/s, in {size(totals.recv_rate)}/s",
        f"{totals.packets_sent_rate:.0f} packets/s out, {totals.packets_recv_rate:.0f} in, "
        f"{totals.dropped} dropped",
        ", ".join(f"{count} {kind}" for kind, count in totals.paths.items() if count) or "no path",
    ]
    return Group(
        *(Text(line) for line in lines),
        Rows(f"peers ({totals.peers})", PEERS, [_peer_row(peer) for peer in look.peers[:_ROWS]]),
        Rows(
            f"streams ({totals.connections})",
            STREAMS,
            [_stream_row(stream) for stream in look.streams[:_ROWS]],
        ),
    )


def _peer_row(peer: Peer) -> dict[str, object]:
    return {
        "node": peer.node_id,
        "path": peer.path,
        "rtt": f"{peer.rtt_ms:.1f}" if peer.rtt_ms else "",
        "loss": f"{peer.loss:.1%}",
        "age": duration(peer.path_age),
    }


def _stream_row(stream: Stream) -> dict[str, object]:
    row = members_of(stream)
    is_open = stream.state == "ESTABLISHED"
    return {
        **row,
        "sending": size(stream.send_rate),
        "receiving": size(stream.recv_rate),
        "rtt": f"{stream.rtt_ms:.1f}",
        "waits": stream.limit if is_open else stream.state,
    }


COMMANDS = (top,)
