"""Answers about this node, its peers and its trust: JSON of the daemon's socket.

Members stand in the order in which the daemon writes them. Existing daemons leave some out, so
every member that the SDK can do without has a default.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from pilotstack.types import Address, SocketAddress

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """An answer whose members are always written."""


class SparseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer whose members are left out while they have their default, but for those with
    :func:`always`."""


def always(value: T) -> T:
    """The default of a member that is written even then."""
    made: T = field(default_factory=lambda: value)
    return made


class CandidateInfo(Answer, frozen=True):
    """A way to a peer that was considered (a candidate of RFC 8445).

    ``kind`` is how it was learnt (``host``, ``reflexive``, ``mapped``, the registry, a frame),
    ``state`` what became of it, and ``reason`` why it is not in use.
    """

    endpoint: str
    kind: str = ""
    state: str = ""
    reason: str = ""


class PeerInfo(Answer, frozen=True):
    """A node that the daemon exchanged keys with, or tries to, and the path that is in use."""

    node_id: int
    #: Where it is itself, if that is known, also while a relay is in use.
    endpoint: str = ""
    encrypted: bool = False
    authenticated: bool = False
    #: Whether a beacon relays.
    relay: bool = False
    #: ``lan``, ``ipv6``, ``direct`` or ``relay``; empty without a session.
    path: str = ""
    #: The beacon that relays.
    beacon: str = ""
    #: Smoothed round trip; 0 if it was not measured.
    rtt_ms: float = 0.0
    #: Bytes of the largest segment that the path takes: its MTU without all headers.
    mtu: int = 0
    #: Share of segments to it that were sent again, 0 to 1.
    loss: float = 0.0
    #: Seconds for which this path has been in use.
    path_age: float = 0.0
    #: In :class:`Peers` only.
    candidates: tuple[CandidateInfo, ...] | UnsetType = UNSET


class ConnectionInfo(Answer, kw_only=True, frozen=True):
    """A connection of the daemon. Windows, buffers and segments are in bytes, rates in bytes per
    second, round trips in milliseconds."""

    state: str
    remote_addr: Address
    in_recovery: bool = False
    congestion: str = ""
    id: int
    local_port: int
    remote_port: int
    bytes_sent: int = 0
    bytes_recv: int = 0
    segs_sent: int = 0
    segs_recv: int = 0
    retransmits: int = 0
    fast_retx: int = 0
    loss_probes: int = 0
    spurious_retx: int = 0
    dup_acks: int = 0
    sack_sent: int = 0
    sack_recv: int = 0
    cong_win: int = 0
    ssthresh: int = 0
    pacing_rate: int = 0
    delivery_rate: int = 0
    in_flight: int = 0
    unacked: int = 0
    ooo_buf: int = 0
    peer_recv_win: int = 0
    recv_win: int = 0
    #: Largest segment that is sent; follows the path MTU (RFC 8899).
    max_segment: int = 0
    srtt_ms: float = 0.0
    rttvar_ms: float = 0.0
    min_rtt_ms: float = 0.0

    @property
    def remote(self) -> SocketAddress:
        """The other end."""
        return SocketAddress(self.remote_addr, self.remote_port)


class Peers(Answer, kw_only=True, frozen=True):
    """Peers with the ways to them that were considered."""

    #: Up to 256 rows; ``total`` counts all that were asked for.
    peers: tuple[PeerInfo, ...] = ()
    total: int = 0


class Phase(Answer, frozen=True):
    """A step of the set-up of a tunnel; ``ms`` is how long it took."""

    name: str
    ms: float
    detail: str = ""


class Traced(Answer, kw_only=True, frozen=True):
    """How a tunnel to a peer came about."""

    node_id: int
    #: Whether there was one already.
    is_warm: bool = False
    phases: tuple[Phase, ...] = ()


class Membership(Answer, frozen=True):
    """A network that this node is in, and its address there."""

    network_id: int
    address: Address


class Relayed(Answer, frozen=True):
    """Handshake messages that came through the registry, by how."""

    pushed: int = 0
    polled: int = 0


class PortMappingInfo(Answer, frozen=True):
    """What a router maps to the tunnel's port. Without a ``protocol`` nothing is mapped, and
    ``error`` says why."""

    #: ``pcp``, ``nat-pmp`` or ``upnp``.
    protocol: str = ""
    #: IPv4 address and port on the router.
    external: str = ""
    #: End of the lease in Unix seconds; 0 if it does not end.
    expires: int = 0
    error: str = ""


class RegistryInfo(Answer, frozen=True):
    """Where the daemon's registry is, and how it is recognized."""

    #: ``host:port``; several are separated by commas.
    address: str = ""
    tls: bool = False
    #: SHA-256 of the certificates that are accepted; without any, the system decides.
    fingerprints: tuple[str, ...] = ()


class Info(Answer, kw_only=True, frozen=True):
    """The daemon's state. Sizes are in bytes, times in seconds."""

    connections: int = 0
    ports: int = 0
    peers: int = 0
    encrypted_peers: int = 0
    bytes_sent: int = 0
    bytes_recv: int = 0
    pkts_sent: int = 0
    pkts_recv: int = 0
    #: Up to 700 rows; ``peers`` counts all.
    peer_list: tuple[PeerInfo, ...] = ()
    node_id: int
    address: Address
    hostname: str = ""
    uptime_secs: int = 0
    authenticated_peers: int = 0
    encrypt: bool = False
    #: Whether the identity is kept in a file.
    identity: bool = False
    #: Base64.
    public_key: str = ""
    owner: str = ""
    email: str = ""
    #: Where the registry sends peers: IP address and port.
    endpoint: str = ""
    version: str = ""
    transport: str = ""
    #: Empty with an older daemon.
    registry: RegistryInfo = RegistryInfo()
    #: The preferred one.
    beacon_addr: str = ""
    #: Addresses of all beacons, in the order of preference.
    beacons: tuple[str, ...] = ()
    #: Endpoints of this host's own interfaces, for peers nearby.
    lan_addrs: tuple[str, ...] = ()
    #: Peers are told to come through a beacon.
    relay_only: bool = False
    #: Folder of what peers send, at the daemon's host; absent if it takes nothing.
    files: str | UnsetType = UNSET
    port_mapping: PortMappingInfo = PortMappingInfo()
    features: tuple[str, ...] = ()
    networks: tuple[Membership, ...] | None = None
    handshake_pending_count: int = 0
    handshakes_relayed: Relayed = Relayed()
    relay_peer_count: int = 0
    #: Peers with a session, by the kind of path that is in use.
    paths: dict[str, int] = {}
    #: What happened on paths: switches, fallbacks to a relay, punches, by the counter's name.
    path_events: dict[str, int] = {}
    tunnel_encryption_success: int = 0
    tunnel_encryption_failure: int = 0
    ptb_recv: int = 0
    accept_queue_drops: int = 0
    #: Existing programs look for these; there are no webhooks, and no message of the day.
    webhook_queue_dropped: int = 0
    webhook_circuit_skips: int = 0
    motd: str = ""
    #: Bytes of memory held for readers.
    recv_held: int = 0
    #: Bytes of memory held until peers acknowledge them.
    send_held: int = 0
    #: What was dropped, by reason.
    dropped: dict[str, int] = {}
    #: Up to 700 rows, the open ones first; ``connections`` counts all.
    conn_list: tuple[ConnectionInfo, ...] = ()
    conn_list_truncated: bool | UnsetType = UNSET
    peer_list_truncated: bool | UnsetType = UNSET


class Health(Answer, frozen=True):
    """Whether the daemon works, and how much it does."""

    status: str
    uptime_seconds: int = 0
    beacon_addr: str = ""
    connections: int = 0
    peers: int = 0
    encrypted_peers: int = 0
    authenticated_peers: int = 0
    bytes_sent: int = 0
    bytes_recv: int = 0
    relay_peer_count: int = 0
    handshake_pending_count: int = 0
    accept_queue_drops: int = 0
    webhook_queue_dropped: int = 0
    webhook_circuit_skips: int = 0


class Resolved(SparseAnswer, frozen=True):
    """What a hostname stands for."""

    node_id: int
    address: Address
    public: bool = always(False)
    hostname: str = ""
    #: Unix seconds; 0 if the registry does not say.
    last_seen_unix: int = 0
    type: str = always("resolve_hostname_ok")


class HostnameSet(Answer, frozen=True):
    """This node has another hostname, or none."""

    node_id: int
    hostname: str
    type: str = "set_hostname_ok"


class VisibilitySet(Answer, frozen=True):
    """``public``: everybody may reach this node; ``private``: trusted nodes and its networks."""

    node_id: int
    visibility: str
    type: str = "set_visibility_ok"


class TagsSet(Answer, frozen=True):
    """What this node can be found by; ``None`` means nothing."""

    node_id: int
    tags: tuple[str, ...] | None
    type: str = "set_tags_ok"


class Registered(SparseAnswer, kw_only=True, frozen=True):
    """This node is in the registry again."""

    type: str = always("register_ok")
    node_id: int
    address: Address
    hostname: str
    public_key: str = ""
    #: Why the hostname was not granted.
    hostname_error: str = ""


class Deregistered(Answer, frozen=True):
    """This node is out of the registry."""

    type: str = "deregister_ok"


class KeyRotated(Answer, frozen=True):
    """This node's key was replaced; ``public_key`` is the new one in base64."""

    node_id: int
    address: Address
    public_key: str
    type: str = "rotate_key_ok"


class RecoveryEnrolled(Answer, frozen=True):
    """Whether the registry holds a commitment to a recovery secret of this node."""

    node_id: int
    enrolled: bool
    type: str = "enroll_recovery_ok"


class Disconnected(Answer, frozen=True):
    """A connection was ended."""


class DirectPreferred(Answer, frozen=True):
    """The registry was asked anew where a node is."""

    node_id: int
    had_tunnel: bool
    #: Whether the registry knew it.
    pila_pushed: bool
    resolve_error: str = ""
    was_relay_active: bool = False
    was_relay_pinned: bool = False


class EnvelopeSigned(Answer, kw_only=True, frozen=True):
    """A request envelope of this node, and its signature in base64."""

    type: str = "sign_envelope_ok"
    envelope: str
    signature: str
    address: Address


class EnvelopeVerified(SparseAnswer, kw_only=True, frozen=True):
    """Whether an envelope is authentic. If not, ``reason`` says why and nothing else is given."""

    type: str = always("verify_envelope_ok")
    valid: bool
    reason: str = ""
    node_id: int = 0
    address: Address | UnsetType = UNSET
    verified_via: str = ""
    trusted: bool | UnsetType = UNSET
    network_member: bool | UnsetType = UNSET
    last_seen_unix: int = 0


# Handshake


class HandshakeStatus(SparseAnswer, frozen=True):
    """What became of a request for trust: ``sent`` or ``in_flight``, ``approved``, ``rejected``,
    ``revoked``."""

    node_id: int
    status: str
    #: Whether there was a request to answer; unset where that is not the question, and by daemons
    #: that do not tell.
    found: bool | UnsetType = UNSET


class PendingHandshake(Answer, frozen=True):
    """A request for trust that waits for an answer.

    ``justification`` is printable text of a stranger, not to be acted upon; ``public_key`` is
    base64, ``received_at`` in Unix seconds.
    """

    node_id: int
    public_key: str = ""
    justification: str = ""
    received_at: int = 0


class PendingHandshakes(Answer, frozen=True):
    """Requests for trust that wait for an answer."""

    pending: tuple[PendingHandshake, ...] | None = ()


class TrustedPeer(Answer, frozen=True):
    """A peer in mutual trust.

    ``mutual`` means that both asked, or that the peer granted what this node asked for; ``network``
    is the shared network that stood for an approval, or 0. ``public_key`` is base64,
    ``approved_at`` in Unix seconds.
    """

    node_id: int
    public_key: str = ""
    approved_at: int = 0
    mutual: bool = False
    network: int = 0


class TrustedPeers(SparseAnswer, frozen=True):
    """Peers in mutual trust, the newest first."""

    trusted: tuple[TrustedPeer, ...] | None = always(())
    #: There are more.
    truncated: bool = False


class TrustAwaited(Answer, frozen=True):
    """Whether there is trust."""

    node_id: int
    trusted: bool = False
