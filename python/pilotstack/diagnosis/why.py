"""Why a peer is slow or unreachable: one verdict from what registry, daemon and streams say.

Causes that rule others out come first: who is not there is not slow. Among what makes a stream
slow, the end that holds it up comes before the path, since a path looks idle then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.types import Address  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pilotstack.ipc.answers import ConnectionInfo, PeerInfo

#: Share of segments that were sent again from which a path counts as lossy.
_LOSSY: Final = 0.01
#: Segments in the time of observation that tell something about loss.
_ENOUGH: Final = 50
#: Share of the samples in which a limit must hold a stream up.
_MOSTLY: Final = 0.6
#: Share of a core from which the daemon counts as busy.
_BUSY: Final = 0.9
#: Seconds of silence at the registry after which a node is gone: three heartbeats.
_SILENT: Final = 90


class Verdict(msgspec.Struct, frozen=True):
    """The cause that explains the most."""

    target: str
    #: ``None`` if nobody has that name.
    address: Address | None
    code: str
    #: One paragraph.
    text: str
    #: What to do.
    fix: str
    #: The figures behind it, by name.
    evidence: dict[str, object]
    #: The peer cannot be used at all.
    is_unreachable: bool


class Stream(msgspec.Struct, frozen=True):
    """A stream to the peer over the time of observation. Shares are of samples, 0 to 1."""

    id: int
    remote_port: int
    sent_per_second: float
    received_per_second: float
    segments: int
    retransmitted: int
    #: The peer's receive window had no room for a segment.
    by_peer_window: float
    #: The congestion window had none.
    by_congestion_window: float
    #: Our own window has none, since the program here does not read.
    by_own_reader: float
    srtt_ms: float
    congestion_window: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a peer."""

    target: str
    address: Address | None = None
    is_self: bool = False
    #: Why the name has no address, or the registry knows no such node.
    is_unknown: bool = False
    #: ``None`` where the registry does not tell.
    is_public: bool | None = None
    is_offline: bool = False
    #: Seconds since the registry heard of it; ``None`` if it does not tell.
    silent_for: float | None = None
    #: We trust it, it waits for our answer, we share a network with it.
    is_trusted: bool = False
    is_waiting: bool = False
    shares_network: bool = False
    #: Code of the error of the tunnel or the dial; empty if there was none.
    tunnel_error: str = ""
    dial_error: str = ""
    port: int = 0
    peer: PeerInfo | None = None
    streams: tuple[Stream, ...] = ()
    #: Cores that the daemon kept busy; ``None`` if that is not known.
    cpu: float | None = None


def explain(facts: Facts) -> Verdict:
    """The verdict."""
    found = _unreachable(facts)
    code, text, fix = found or _slow(facts)
    return Verdict(
        facts.target, facts.address, code, text, fix, _evidence(facts), found is not None
    )


def _unreachable(facts: Facts) -> tuple[str, str, str] | None:
    """Code, paragraph and fix if the peer cannot be used."""
    name = facts.target
    is_admitted = facts.is_public or facts.is_trusted or facts.shares_network
    is_up = facts.peer is not None and facts.peer.authenticated and not facts.tunnel_error
    if facts.is_self:
        return None
    if facts.is_unknown and facts.is_trusted:
        text = f"{name} is trusted, but not at the registry: its daemon has stopped."
        return "asleep", text, "start its daemon"
    if facts.is_unknown:
        text = f"The registry knows no node {name}: it never was there, or its daemon has stopped."
        return "unknown", text, "check the spelling, and start its daemon"
    if facts.is_waiting and not is_up:
        text = f"{name} is private and waits for this node to answer its request for trust."
        return "untrusted", text, f"pilotctl approve {name}"
    if is_up and facts.dial_error == "connection_refused":
        text = f"{name} answers, but no program of it listens on port {facts.port}."
        return "refused", text, f"start that program; see: pilotctl services {name}"
    if is_up and facts.dial_error and facts.is_public is False:
        text = f"{name} has a session with this node, but is private and does not let it in."
        return "untrusted", text, f"pilotctl handshake {name}"
    is_silent = facts.silent_for is not None and facts.silent_for > _SILENT
    if facts.tunnel_error and (facts.is_offline or is_silent):
        ago = f"for {facts.silent_for:.0f} s" if facts.silent_for is not None else "for long"
        text = f"The registry has not heard of {name} {ago}: its daemon or host is down."
        return "asleep", text, "start its daemon, or wait until its host is awake"
    if facts.tunnel_error and facts.is_public is False and facts.is_trusted:
        text = f"{name} is trusted, but does not trust this node any more, or is asleep."
        return "untrusted", text, f"pilotctl handshake {name}"
    if facts.tunnel_error and not is_admitted:
        text = f"{name} is private: only nodes that it trusts, or shares a network with, reach it."
        return "private", text, f"pilotctl handshake {name}"
    if facts.tunnel_error or facts.dial_error:
        return "unreachable", _tried(facts), "run on both hosts: pilotctl doctor"
    return None


def _tried(facts: Facts) -> str:
    listed = facts.peer.candidates if facts.peer is not None else ()
    ways = [each.endpoint for each in listed or ()]
    shown = ", ".join(ways[:4]) if ways else "no address of it is known"
    return f"{facts.target} is registered, but answers on no way that was tried: {shown}."


def _slow(facts: Facts) -> tuple[str, str, str]:
    """Code, paragraph and fix for a peer that answers."""
    if facts.is_self:
        return "itself", f"{facts.target} is this node.", ""
    for find in (_by_ends, _by_cpu, _by_loss, _by_relay, _by_window):
        if (found := find(facts)) is not None:
            return found
    if any(each.sent_per_second or each.received_per_second for each in facts.streams):
        text = f"Nothing holds streams to {facts.target} up but the programs, which send no more."
        return "application_limited", text, "have the program send larger pieces, or more at once"
    rtt = f" in {facts.peer.rtt_ms:.1f} ms" if facts.peer is not None else ""
    text = f"{facts.target} answers{rtt}, and no stream to it is waiting for anything."
    return "well", text, "ask again while it is slow"


def _by_ends(facts: Facts) -> tuple[str, str, str] | None:
    for stream in facts.streams:
        if stream.by_peer_window >= _MOSTLY:
            text = (
                f"Stream {stream.id} to port {stream.remote_port} of {facts.target} waits for the "
                "program there to read: its receive window is full."
            )
            return "receive_window", text, "look at that program: it is busy, or does not read"
        if stream.by_own_reader >= _MOSTLY:
            text = (
                f"{facts.target} waits for the program here to read stream {stream.id}, whose "
                "receive window is full."
            )
            return "not_reading", text, "look at the program here: it is busy, or does not read"
    return None


def _by_cpu(facts: Facts) -> tuple[str, str, str] | None:
    if facts.cpu is None or facts.cpu < _BUSY or not facts.streams:
        return None
    text = (
        f"This host's daemon uses {facts.cpu:.0%} of a core, which is all that its thread for "
        f"packets can; streams to {facts.target} wait for it."
    )
    return "cpu", text, "use a faster core, or a second daemon for some of the traffic"


def _by_loss(facts: Facts) -> tuple[str, str, str] | None:
    loss = _loss(facts)
    if loss < _LOSSY:
        return None
    text = f"The path to {facts.target} loses packets: {loss:.1%} of all segments were sent again."
    return "lossy", text, "dial with congestion=bbr, and look for a bad link: Wi-Fi, a full uplink"


def _loss(facts: Facts) -> float:
    segments = sum(each.segments for each in facts.streams)
    if segments >= _ENOUGH:
        return sum(each.retransmitted for each in facts.streams) / segments
    return facts.peer.loss if facts.peer is not None else 0.0


def _by_relay(facts: Facts) -> tuple[str, str, str] | None:
    peer = facts.peer
    if peer is None or not peer.relay:
        return None
    reasons = sorted({each.reason for each in peer.candidates or () if each.reason})
    why = f" ({', '.join(reasons[:3])})" if reasons else ""
    text = (
        f"No direct path to {facts.target} works{why}, so the beacon {peer.beacon} relays: round "
        f"trips take {peer.rtt_ms:.1f} ms."
    )
    return "relayed", text, "run on both hosts: pilotctl netcheck"


def _by_window(facts: Facts) -> tuple[str, str, str] | None:
    for stream in facts.streams:
        if stream.by_congestion_window >= _MOSTLY:
            text = (
                f"Stream {stream.id} to {facts.target} sends as much as its congestion window "
                f"allows: {stream.congestion_window} bytes in each round trip of "
                f"{stream.srtt_ms:.1f} ms. The path is full, or the window still grows."
            )
            return "congestion_window", text, "wait for it to grow, or dial with congestion=bbr"
    return None


def _evidence(facts: Facts) -> dict[str, object]:
    figures = {
        "tunnel_error": facts.tunnel_error or None,
        "dial_error": facts.dial_error or None,
        "public": facts.is_public,
        "silent_secs": None if facts.silent_for is None else round(facts.silent_for),
        "cpu": None if facts.cpu is None else round(facts.cpu, 2),
    }
    found: dict[str, object] = {name: value for name, value in figures.items() if value is not None}
    found |= {"loss": round(_loss(facts), 4), "trusted": facts.is_trusted}
    found["shared_network"] = facts.shares_network
    if facts.peer is not None:
        found["path"] = facts.peer
    found["streams"] = facts.streams
    return found


def stream_of(samples: Sequence[ConnectionInfo], seconds: float) -> Stream:
    """A stream from samples of its figures.

    Args:
        samples: at least one, in order.
        seconds: between the first and the last.
    """
    first, last = samples[0], samples[-1]
    length = max(seconds, 1e-3)
    again = [row.retransmits + row.fast_retx - row.spurious_retx for row in (first, last)]
    return Stream(
        id=last.id,
        remote_port=last.remote_port,
        sent_per_second=round((last.bytes_sent - first.bytes_sent) / length, 1),
        received_per_second=round((last.bytes_recv - first.bytes_recv) / length, 1),
        segments=last.segs_sent - first.segs_sent,
        retransmitted=max(0, again[1] - again[0]),
        by_peer_window=_share(samples, _fills_peer_window),
        by_congestion_window=_share(samples, _fills_congestion_window),
        by_own_reader=_share(samples, _is_unread),
        srtt_ms=last.srtt_ms,
        congestion_window=last.cong_win,
    )


def _share(samples: Sequence[ConnectionInfo], holds: Callable[[ConnectionInfo], bool]) -> float:
    return round(sum(map(holds, samples)) / len(samples), 2)


def _fills_peer_window(row: ConnectionInfo) -> bool:
    return row.peer_recv_win - row.in_flight < row.max_segment


def _fills_congestion_window(row: ConnectionInfo) -> bool:
    return row.cong_win - row.in_flight < row.max_segment


def _is_unread(row: ConnectionInfo) -> bool:
    return row.recv_win < row.max_segment
