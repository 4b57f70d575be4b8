"""Registration, heartbeats and departure.

Registration, heartbeat and deregister of docs/reference/protocol/registry.md. A client brings its
own key, and the key determines the id. The owner that a client names gives no rights by itself:
otherwise knowing an e-mail address would be enough to take over its nodes.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack import _serving
from pilotstack.registry.model.rows import Node
from pilotstack.registry.model.source import Announcement
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.names import check_hostname
from pilotstack.registry.protocol.requests.identity import (
    MAX_LAN_ADDRESS,
    Deregister,
    DeregisterReply,
    Heartbeat,
    HeartbeatReply,
    Register,
    RegisterReply,
)
from pilotstack.registry.rules import removal
from pilotstack.registry.rules.call import MAX_PENDING, announced, changed

if TYPE_CHECKING:
    from pilotstack.registry.model.source import Source
    from pilotstack.registry.rules.call import Call, Handlers

MAX_NODE: Final = (1 << 32) - 1
#: Characters of a host name.
_MAX_HOST: Final = 253
#: Version of this protocol in replies.
_PROTOCOL_VERSION: Final = 1
#: Seconds before a key expires during which heartbeats warn of it.
_EXPIRY_WARNING: Final = 7 * 86_400.0


def endpoint_of(listen_addr: str, source: Source, *, may_name: bool) -> str:
    """A node's endpoint: the address its request came from, with the port that it names.

    Args:
        may_name: accept a public address or a host name that it names.
    """
    host, colon, digits = listen_addr.rpartition(":")
    port = _serving.parse_port(digits) if colon else None
    if not port:
        return _serving.join_address(source.host, source.port)
    host = host.strip("[]")
    if host != source.host and not (may_name and _is_public(host)):
        host = source.host
    return _serving.join_address(host, port)


def _is_public(host: str) -> bool:
    return len(host) <= _MAX_HOST and _is_global(host)


@lru_cache(maxsize=4096)
def _is_global(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host)


def register(call: Call[Register]) -> RegisterReply:
    """Registers a node, or updates what a known one says of itself."""
    request, source = call.request, call.source
    key = _key_of(request)
    is_signed = _check_signature(call, key)
    node = _identify(call, key, is_signed=is_signed)
    problem = _hostname_problem(call, node.node_id)
    hostname = "" if problem else request.hostname
    said = Announcement(
        endpoint=_endpoint(call, is_signed=is_signed),
        owner=node.owner or request.owner,
        version=request.version or node.version,
        lan_addrs=() if request.relay_only else tuple(filter(_fits, request.lan_addrs)),
        relay_only=request.relay_only,
        hostname=hostname,
    )
    is_pending = node.node_id in call.state.nodes and not is_signed
    if is_pending:
        _hold_back(call, node, said)
    else:
        _install(call, node, said, is_signed=is_signed)
    return RegisterReply(
        node_id=node.node_id,
        network_id=0,
        address=node.address,
        public_key=values.encode_base64(key),
        observed_addr=_serving.join_address(source.host, source.port),
        protocol_version=_PROTOCOL_VERSION,
        hostname="" if is_pending else hostname,
        hostname_error=problem,
        announced_at=call.state.announced.get(node.node_id, UNSET) if is_signed else UNSET,
    )


def _fits(address: str) -> bool:
    return len(address) <= MAX_LAN_ADDRESS


def _key_of(request: Register) -> bytes:
    if not request.public_key:
        raise Denied("registration requires public_key", Code.INVALID)
    try:
        return values.read_key(request.public_key)
    except ValueError as error:
        raise Denied(f"invalid public key: {error}", Code.INVALID) from error


def _install(call: Call[Register], node: Node, said: Announcement, *, is_signed: bool) -> None:
    """Stores a registration that is signed, or the first of its key."""
    is_unconfirmed = node.is_unconfirmed and not is_signed
    node = changed(
        announced(node, said),
        is_signed=node.is_signed or is_signed,
        is_unconfirmed=is_unconfirmed,
        # A daemon without the flag keeps the node.
        is_ephemeral=node.is_ephemeral and call.request.ephemeral,
    )
    call.put_node(node)
    call.state.touch(node.node_id, call.now)
    if is_signed:
        call.source.pending.pop(node.node_id, None)
        call.prove(node.node_id)
        # Whole seconds, and later than the registration before.
        known = call.state.announced.get(node.node_id, 0)
        call.state.announced[node.node_id] = max(int(call.wall), known + 1)


def _hostname_problem(call: Call[Register], node_id: int) -> str:
    hostname = call.request.hostname
    if not hostname:
        return ""
    if problem := check_hostname(hostname):
        return problem
    is_taken = call.state.by_hostname.get(hostname, node_id) != node_id
    return f'hostname "{hostname}" already in use' if is_taken else ""


def _hold_back(call: Call[Register], node: Node, said: Announcement) -> None:
    """Keeps an unsigned registration of a known node until its connection gives a signature, since
    anybody who knows a public key can send one.

    A restarted node of the first generation signs its first request up to 30 seconds later. So
    while no other connection speaks for the node, its own address may say at once that it is back,
    and at which port; nothing else."""
    source, state, node_id = call.source, call.state, node.node_id
    if node_id in source.proven:
        call.put_node(announced(node, said))
        return
    if len(source.pending) < MAX_PENDING or node_id in source.pending:
        source.pending[node_id] = said
    is_same_host = _host(node.endpoint) == _host(said.endpoint)
    if is_same_host and not state.speaking[node_id]:
        call.put_node(changed(node, endpoint=said.endpoint, gone_at=0))
        state.touch(node_id, call.now)


def _check_signature(call: Call[Register], key: bytes) -> bool:
    """Whether the registration is signed.

    Raises:
        Denied: the signature is wrong, or one is required.
    """
    request = call.request
    if not request.signature:
        if call.state.policy.requires_signed_registration:
            raise Denied("registration requires a signature", Code.SIGNATURE)
        return False
    try:
        call.state.verifier.verify(key, request.signature, request.challenge())
    except Denied as denied:
        raise Denied(f"registration: {denied}", denied.code) from denied
    return True


def _identify(call: Call[Register], key: bytes, *, is_signed: bool) -> Node:
    """The node of a key: known, reclaimed by its owner, or new."""
    state, policy = call.state, call.state.policy
    known = state.nodes.get(state.by_key.get(key, 0))
    if known is not None:
        if known.is_banned:
            raise Denied(f"node {known.node_id}: registration denied: banned", Code.DENIED)
        if known.is_signed and not is_signed:
            raise Denied(
                f"node {known.node_id}: unsigned registration cannot modify a "
                "signature-verified key",
                Code.SIGNATURE,
            )
        return known
    if policy.allows_owner_reclaim and (reclaimed := _reclaimable(call)) is not None:
        call.put("keys", reclaimed.node_id, None)
        return changed(reclaimed, public_key=key, is_signed=False)
    if len(state.nodes) >= policy.max_nodes:
        raise Denied("registry full", Code.FULL)
    node_id = max(state.next_node, policy.first_node)
    if node_id > MAX_NODE:
        raise Denied("node ID space exhausted", Code.FULL)
    return Node(
        node_id=node_id,
        public_key=key,
        is_unconfirmed=True,
        is_ephemeral=call.request.ephemeral,
        registered=call.at,
    )


def _reclaimable(call: Call[Register]) -> Node | None:
    """A departed node of this owner without a recovery secret, if there is one."""
    for node_id in sorted(call.state.departed.get(call.request.owner, ())):
        node = call.state.nodes[node_id]
        is_due = call.now - node.gone_at >= call.state.policy.reclaim_after
        is_free = not node.is_banned and node_id not in call.state.recoveries
        if is_due and is_free:
            return node
    return None


def _endpoint(call: Call[Register], *, is_signed: bool) -> str:
    """The endpoint that a registration leads to."""
    source, policy = call.source, call.state.policy
    # A source address inside our own site says nothing about where others reach the node.
    is_inside = not _is_public(source.host)
    named = is_signed and (is_inside or policy.allows_named_endpoints)
    return endpoint_of(call.request.listen_addr, source, may_name=named)


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


def heartbeat(call: Call[Heartbeat]) -> HeartbeatReply:
    """Marks a node as alive. That is not durable: after a restart, every node gets a period of
    grace."""
    request = call.request
    node = call.live(request.node_id)
    if request.public_key and request.public_key != values.encode_base64(node.public_key):
        # A registry that was emptied or restored gave the id to somebody else.
        raise Denied(
            f"node {node.node_id}: node not found: the id belongs to another key",
            Code.NODE_NOT_FOUND,
        )
    call.authenticate(node)
    info = call.state.keys.get(node.node_id)
    is_expiring = False
    if info is not None and info.expires:
        if call.wall >= info.expires:
            text = f"node {node.node_id}: key expired at {values.rfc3339(info.expires)}"
            raise Denied(text, Code.EXPIRED)
        is_expiring = info.expires - call.wall < _EXPIRY_WARNING
    call.state.touch(node.node_id, call.now)
    return HeartbeatReply(
        time=int(call.wall),
        key_expiry_warning=is_expiring,
        announced_at=call.state.announced.get(node.node_id, UNSET),
    )


def deregister(call: Call[Deregister]) -> DeregisterReply:
    """Ends a registration; an unknown id is fine. Key, trust and waiting handshakes stay, and
    memberships do if the node only stops for a while."""
    request, state = call.request, call.state
    node = state.nodes.get(request.node_id)
    if node is None or node.gone_at:
        return DeregisterReply()
    call.authorize(node)
    if node.is_ephemeral:
        _remove(call, node.node_id)
        return DeregisterReply()
    departed = Node(
        node_id=node.node_id,
        public_key=node.public_key,
        owner=node.owner,
        is_signed=node.is_signed,
        registered=node.registered,
        # Identifies a returning node of the first generation.
        endpoint=node.endpoint,
        gone_at=max(call.at, 1),
    )
    call.put_node(departed)
    if request.keep_memberships:
        return DeregisterReply()
    for network_id in state.networks_of.get(node.node_id, ()):
        call.put("members", (network_id, node.node_id), None)
    for network_id in state.invites.of(node.node_id):
        call.put("invites", (node.node_id, network_id), None)
    return DeregisterReply()


def _remove(call: Call[Deregister], node_id: int) -> None:
    """Deletes a node, and tells the members of its networks."""
    for network_id in call.state.networks_of.get(node_id, ()):
        call.tell_removal(network_id, node_id, call.state.members.of(network_id))
    for table, key in removal.rows_of(call.state, node_id):
        call.put(table, key, None)


HANDLERS: Final[Handlers] = {
    Register: register,
    Heartbeat: heartbeat,
    Deregister: deregister,
}
