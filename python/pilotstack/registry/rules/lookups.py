"""Who is where. What may be told to whom is decided in :mod:`pilotstack.registry.rules.gate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.directory import (
    Lookup,
    LookupReply,
    Punch,
    PunchReply,
    Resolve,
    ResolveHostname,
    ResolveHostnameReply,
    ResolveReply,
)
from pilotstack.registry.rules import gate
from pilotstack.registry.rules.beacons import live_beacons

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.rules.call import Call, Handlers

_DAY: Final = 86_400


def lookup(call: Call[Lookup]) -> LookupReply:
    """What may be told of a node."""
    node, state = call.node(call.request.node_id), call.state
    gate.identify(call)
    node_id = node.node_id
    info = state.keys.get(node_id)
    may_know = gate.may_know(call, node)
    endpoint = _endpoint(call, node) if node.public else UNSET
    is_proven = bool(call.source.proven)
    return LookupReply(
        node_id=node_id,
        address=node.address,
        networks=gate.networks_of(call, node),
        public_key=values.encode_base64(node.public_key),
        public=node.public,
        polo_score=node.polo_score,
        key_generation=info.rotations if info else 0,
        hostname=node.hostname,
        tags=node.tags,
        task_exec=node.task_exec,
        relay_only=node.relay_only,
        version=node.version,
        last_seen_unix=int(call.seen(node_id)) if may_know else UNSET,
        offline=may_know and node_id in state.offline,
        real_addr=endpoint,
        endpoint=endpoint,
        lan_addrs=_lan_addrs(node) if node.public and is_proven else UNSET,
    )


def _endpoint(call: Call[Lookup] | Call[Resolve] | Call[Punch], node: Node) -> str:
    """Where to send what is for a node. One that takes relayed frames only hides its endpoint:
    requesters that do not know of that are sent to a beacon, where they end up relaying, too."""
    if not node.relay_only:
        return node.endpoint
    beacons = live_beacons(call.state, call.now)
    return beacons[0].addr if beacons else ""


def _lan_addrs(node: Node) -> tuple[str, ...]:
    # A snapshot of another registry may have kept those of a node that hides its endpoint.
    return () if node.relay_only else node.lan_addrs


def resolve(call: Call[Resolve]) -> ResolveReply:
    """A node's endpoint, for a requester that may know it."""
    requester_id, target_id = call.request.requester_id, call.request.node_id
    try:
        requester = call.live(requester_id)
    except Denied as denied:
        text = f"resolve denied: requester node {requester_id} is not registered"
        raise Denied(text, Code.DENIED) from denied
    call.authenticate(requester)
    target = _reachable(call, requester_id, target_id, "resolve")
    info = call.state.keys.get(target_id)
    since = (info.rotated if info else 0) or target.registered
    return ResolveReply(
        node_id=target_id,
        real_addr=_endpoint(call, target),
        lan_addrs=_lan_addrs(target),
        relay_only=target.relay_only,
        key_age_days=max(0, int(call.now - since) // _DAY) if since else UNSET,
    )


def _reachable(
    call: Call[Resolve] | Call[Punch], requester_id: int, node_id: int, what: str
) -> Node:
    node, state = call.node(node_id), call.state
    if not (node.public or state.may_know(requester_id, node_id)):
        # Checked first, since the next error tells whether the node is there.
        text = f"{what} denied: node {node_id} is private (establish mutual trust first)"
        raise Denied(text, Code.PRIVATE)
    if node_id in state.offline:
        # Dialling its last endpoint would only time out.
        raise Denied(f"node {node_id}: node not found (offline)", Code.NODE_NOT_FOUND)
    return node


def punch(call: Call[Punch]) -> PunchReply:
    """The endpoints of two nodes, for one of them that may know the other's."""
    requester_id = call.request.requester_id
    a_id, b_id = call.request.node_a, call.request.node_b
    if requester_id not in (a_id, b_id):
        raise Denied("punch denied: requester must be participant", Code.DENIED)
    requester = call.node(requester_id)
    call.authenticate(requester)
    other = _reachable(call, requester_id, b_id if requester_id == a_id else a_id, "punch")
    a, b = (requester, other) if requester_id == a_id else (other, requester)
    return PunchReply(
        node_a=a_id,
        node_a_addr=_endpoint(call, a),
        node_b=b_id,
        node_b_addr=_endpoint(call, b),
    )


def resolve_hostname(call: Call[ResolveHostname]) -> ResolveHostnameReply:
    """The node with a hostname."""
    name = call.request.hostname
    if not name:
        raise Denied("hostname required", Code.INVALID)
    node_id = call.state.by_hostname.get(name)
    if node_id is None:
        raise Denied(f'hostname "{name[:64]}" not found', Code.NAME_NOT_FOUND)
    node = call.node(node_id)
    gate.identify(call)
    return ResolveHostnameReply(
        node_id=node_id,
        address=node.address,
        public=node.public,
        hostname=name,
        last_seen_unix=int(call.seen(node_id)) if gate.may_know(call, node) else UNSET,
    )


HANDLERS: Final[Handlers] = {
    Lookup: lookup,
    Resolve: resolve,
    Punch: punch,
    ResolveHostname: resolve_hostname,
}
