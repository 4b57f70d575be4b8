"""Verbs about this node: its state, its name, its registration, its key."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from pilotstack import wellknown
from pilotstack.daemon import snapshot as snapshots
from pilotstack.errors import InvalidArgument, Unavailable
from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from pilotstack.daemon.names import Names
    from pilotstack.daemon.registrar import Registrar
    from pilotstack.daemon.snapshot import Source
    from pilotstack.daemon.verbs.table import Table

#: Rows of a list in an answer; a row has up to 700 bytes, a frame 2**20.
MAX_ROWS: Final = 700
MAX_TAGS: Final = 3
#: What existing clients may rely on.
FEATURES: Final = ("dgram_confirm", "dial_awaits_key", "reply_window")


class Handshakes:
    """What this node's state says about trust.

    Args:
        pending: how many requests wait for an answer.
        relayed: messages that came through the registry, by how.
        dropped: messages that were dropped, by reason.
        services: what other services dropped, by reason.
    """

    def __init__(
        self,
        pending: Callable[[], int],
        relayed: Callable[[], a.Relayed],
        dropped: Callable[[], Counter[str]],
        services: Callable[[], dict[str, int]],
    ) -> None:
        self.pending = pending
        self.relayed = relayed
        self.dropped = dropped
        self.services = services


class NodeVerbs:
    """Answers drivers about this node.

    Args:
        registrar: changes its registration.
        names: resolves hostnames.
        core: tells what it does.
        handshakes: tell what there is about trust.
        beacons: addresses of those that are asked for the endpoint, the preferred one first.
        is_kept: whether the identity is kept in a file.
        registry: which one this node is registered at.
        files: folder of what peers send.
    """

    def __init__(
        self,
        registrar: Registrar,
        names: Names,
        core: Source,
        handshakes: Handshakes,
        *,
        beacons: Callable[[], Sequence[str]],
        is_kept: bool,
        registry: a.RegistryInfo,
        files: str = "",
    ) -> None:
        self._registrar = registrar
        self._state = registrar.state
        self._names = names
        self._core = core
        self._handshakes = handshakes
        self._beacons = beacons
        self._is_kept = is_kept
        self._registry = registry
        self._files = files
        self._started = time.monotonic()

    def add_to(self, table: Table) -> None:
        """Lets these verbs answer."""
        table.add(r.GetInfo, self.info)
        table.add(r.GetHealth, self.health)
        table.add(r.ResolveHostname, self.resolve_hostname)
        table.add(r.SetHostname, self.set_hostname)
        table.add(r.SetVisibility, self.set_visibility)
        table.add(r.SetTags, self.set_tags)
        table.add(r.Register, self.register)
        table.add(r.Deregister, self.deregister)
        table.add(r.RotateKey, self.rotate_key)
        table.add(r.EnrollRecovery, self.enroll_recovery)

    async def info(self, request: r.GetInfo) -> a.Info:
        """Everything that the daemon tells about itself."""
        del request
        state, core, handshakes = self._state, snapshots.take(self._core), self._handshakes
        dropped = {f"handshake_{name}": count for name, count in handshakes.dropped().items()}
        dropped |= {f"service_{name}": count for name, count in handshakes.services().items()}
        open_first = sorted(core.conn_list, key=lambda row: row.state == "TIME_WAIT")
        where, beacons = self._registrar.where(), tuple(self._beacons())
        return a.Info(
            connections=core.connections,
            ports=core.ports,
            peers=core.peers,
            encrypted_peers=core.encrypted_peers,
            bytes_sent=core.bytes_sent,
            bytes_recv=core.bytes_recv,
            pkts_sent=core.pkts_sent,
            pkts_recv=core.pkts_recv,
            peer_list=tuple(
                msgspec.structs.replace(row, candidates=UNSET) for row in core.peer_list[:MAX_ROWS]
            ),
            node_id=state.node_id,
            address=state.address,
            hostname=state.hostname,
            uptime_secs=int(time.monotonic() - self._started),
            authenticated_peers=sum(peer.authenticated for peer in core.peer_list),
            encrypt=True,
            identity=self._is_kept,
            public_key=self._public_key(),
            owner=state.owner,
            email=state.owner,
            endpoint=where.endpoint,
            version=wellknown.VERSION,
            transport="udp",
            registry=self._registry,
            beacon_addr=next(iter(beacons), ""),
            beacons=beacons,
            lan_addrs=where.lan_addrs,
            relay_only=where.relay_only,
            files=self._files or UNSET,
            port_mapping=a.PortMappingInfo(
                protocol=state.port_mapping.protocol,
                external=state.port_mapping.external,
                expires=int(state.port_mapping.expires),
                error=state.port_mapping.error,
            ),
            features=FEATURES,
            networks=self._memberships() or None,
            handshake_pending_count=handshakes.pending(),
            handshakes_relayed=handshakes.relayed(),
            relay_peer_count=core.paths.get("relay", 0),
            paths=core.paths,
            path_events=core.path_events,
            tunnel_encryption_success=core.opened,
            tunnel_encryption_failure=core.dropped["unauthentic"],
            ptb_recv=core.ptb_recv,
            recv_held=core.recv_held,
            send_held=core.send_held,
            dropped=core.dropped | dropped,
            conn_list=tuple(open_first[:MAX_ROWS]),
            # Counters beside a list that is cut short stay exact.
            conn_list_truncated=len(core.conn_list) > MAX_ROWS or UNSET,
            peer_list_truncated=len(core.peer_list) > MAX_ROWS or UNSET,
        )

    def _memberships(self) -> tuple[a.Membership, ...]:
        node = self._state.node_id
        return tuple(a.Membership(n, Address(n, node)) for n in self._state.memberships)

    def _public_key(self) -> str:
        return base64.b64encode(self._state.identity.public_key).decode("ascii")

    async def health(self, request: r.GetHealth) -> a.Health:
        """The part of the state that monitors look at."""
        del request
        info = await self.info(r.GetInfo())
        return a.Health(
            status="ok",
            uptime_seconds=info.uptime_secs,
            beacon_addr=info.beacon_addr,
            connections=info.connections,
            peers=info.peers,
            encrypted_peers=info.encrypted_peers,
            authenticated_peers=info.authenticated_peers,
            bytes_sent=info.bytes_sent,
            bytes_recv=info.bytes_recv,
            relay_peer_count=info.relay_peer_count,
            handshake_pending_count=info.handshake_pending_count,
            accept_queue_drops=info.accept_queue_drops,
        )

    async def resolve_hostname(self, request: r.ResolveHostname) -> a.Resolved:
        """The node behind a name."""
        return await self._names.resolve(request.hostname)

    async def set_hostname(self, request: r.SetHostname) -> a.HostnameSet:
        """Takes a name, or gives it up."""
        return await self._registrar.set_hostname(request.hostname)

    async def set_visibility(self, request: r.SetVisibility) -> a.VisibilitySet:
        """Opens or closes this node."""
        return await self._registrar.set_visibility(public=request.public)

    async def set_tags(self, request: r.SetTags) -> a.TagsSet:
        """Says what this node can be found by."""
        if len(request.tags) > MAX_TAGS:
            raise InvalidArgument(f"set_tags: maximum {MAX_TAGS} tags allowed")
        return await self._registrar.set_tags(request.tags)

    async def register(self, request: r.Register) -> a.Registered:
        """Puts this node on the network again."""
        del request
        error = await self._registrar.register()
        state = self._state
        return a.Registered(
            node_id=state.node_id,
            address=state.address,
            hostname=state.hostname,
            public_key=self._public_key(),
            hostname_error=error,
        )

    async def deregister(self, request: r.Deregister) -> a.Deregistered:
        """Takes this node off the network."""
        del request
        return await self._registrar.deregister()

    async def rotate_key(self, request: r.RotateKey) -> a.KeyRotated:
        """Replaces this node's key."""
        del request
        return await self._registrar.rotate_key()

    async def enroll_recovery(self, request: r.EnrollRecovery) -> a.RecoveryEnrolled:
        """Leaves a commitment to a recovery secret with the registry."""
        if request.commitment is None:
            raise Unavailable("enroll_recovery: only commitments to a secret are known here")
        return await self._registrar.enroll_recovery(request.commitment)
