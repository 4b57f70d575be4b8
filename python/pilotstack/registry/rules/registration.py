"""Registration, liveness and departure (sheet 3.2, 3.3; whitepaper 4.1 and 5).

A client brings its own key, and the key gives the id. What an owner claims gives nothing by itself:
whoever knows an e-mail address would otherwise take over its nodes.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Node
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.names import check_hostname
from pilotstack.registry.protocol.values import read_key
from pilotstack.registry.rules.call import MAX_PENDING, changed

if TYPE_CHECKING:
    from pilotstack.registry.model.source import Source
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

MAX_NODE: Final = (1 << 32) - 1
_MAX_OWNER: Final = 256
#: Characters of a host's name.
_MAX_HOST: Final = 253
_MAX_VERSION: Final = 64
#: Our number for the protocol of these messages (sheet 3.2).
_PROTOCOL_VERSION: Final = 1
#: Seconds before a key expires in which heartbeats say so.
_EXPIRY_WARNING: Final = 7 * 86_400.0


def join(host: str, port: str | int) -> str:
    """``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint_of(listen_addr: str, source: Source, *, may_name: bool) -> str:
    """Where a node is: the address its request came from, with the port it names.

    Args:
        may_name: a public address or a host name that it names counts, too.
    """
    host, colon, port = listen_addr.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        return join(source.host, source.port)
    host = host.strip("[]")
    if host != source.host and not (may_name and _is_public(host)):
        host = source.host
    return join(host, int(port))


def _is_public(host: str) -> bool:
    return len(host) <= _MAX_HOST and _is_global(host)


@lru_cache(maxsize=4096)
def _is_global(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host)


def register(call: Call) -> Message:
    """Sheet 3.2."""
    key_text = call.text("public_key")
    if not key_text:
        raise Denied("registration requires public_key")
    try:
        key = read_key(key_text)
    except ValueError as error:
        raise Denied(f"invalid public key: {error}") from error
    is_signed = _check_signature(call, key, key_text)
    node = _identify(call, key, is_signed=is_signed)
    is_known = node.node_id in call.state.nodes
    said = {
        "endpoint": _endpoint(call, is_signed=is_signed),
        "owner": node.owner or call.text("owner")[:_MAX_OWNER],
        "version": call.text("version")[:_MAX_VERSION] or node.version,
        "lan_addrs": tuple(item[:64] for item in values.texts(call.message, "lan_addrs")),
        "relay_only": call.flag("relay_only"),
    }
    reply: Message = {
        "node_id": node.node_id,
        "network_id": 0,
        "address": node.address,
        "public_key": values.encode_base64(key),
        "observed_addr": join(call.source.host, call.source.port),
        "protocol_version": _PROTOCOL_VERSION,
    }
    hostname = call.text("hostname")
    if hostname and (problem := _hostname_problem(call, node.node_id, hostname)):
        reply["hostname_error"] = problem
    elif hostname:
        said["hostname"] = hostname
    if is_known and not is_signed:
        _wait(call, node, said)
        return reply
    if hostname and "hostname" in said:
        reply["hostname"] = hostname
    is_unconfirmed = node.is_unconfirmed and not is_signed
    call.put_node(
        changed(
            node,
            **said,
            is_signed=node.is_signed or is_signed,
            is_unconfirmed=is_unconfirmed,
            gone_at=0,
        )
    )
    call.state.touch(node.node_id, call.now)
    if is_signed:
        call.source.pending.pop(node.node_id, None)
        call.prove(node.node_id)
    return reply


def _hostname_problem(call: Call, node_id: int, hostname: str) -> str:
    if problem := check_hostname(hostname):
        return problem
    is_taken = call.state.by_hostname.get(hostname, node_id) != node_id
    return f'hostname "{hostname}" already in use' if is_taken else ""


def _wait(call: Call, node: Node, said: dict[str, Any]) -> None:
    """Whoever knows a public key can register it unsigned, so what that says of a known node waits
    for a signature on the same connection. A first-generation node that was started again gives its
    first one up to 30 seconds later, so as long as no other connection speaks for the node, its own
    address may say at once that it is back, and at which port; nothing else."""
    source, state, node_id = call.source, call.state, node.node_id
    if node_id in source.proven:
        call.put_node(changed(node, **said, gone_at=0))
        return
    if len(source.pending) < MAX_PENDING or node_id in source.pending:
        source.pending[node_id] = said
    is_home = _host(node.endpoint) == _host(said["endpoint"])
    if is_home and not state.speaking[node_id]:
        call.put_node(changed(node, endpoint=said["endpoint"], gone_at=0))
        state.touch(node_id, call.now)


def _check_signature(call: Call, key: bytes, key_text: str) -> bool:
    signature = call.text("signature")
    if not signature:
        if call.state.policy.requires_signed_registration:
            raise Denied("registration requires a signature")
        return False
    challenge = f"register:{call.text('listen_addr')}:{key_text}"
    try:
        call.state.verifier.verify(key, signature, challenge)
    except Denied as denied:
        raise Denied(f"registration: {denied}") from denied
    return True


def _identify(call: Call, key: bytes, *, is_signed: bool) -> Node:
    """The node of a key: known, reclaimed by its owner, or new."""
    state, policy = call.state, call.state.policy
    known = state.nodes.get(state.by_key.get(key, 0))
    if known is not None:
        if known.is_signed and not is_signed:
            raise Denied(
                f"node {known.node_id}: unsigned registration cannot modify a "
                "signature-verified key"
            )
        return known
    if policy.allows_owner_reclaim and (reclaimed := _reclaimable(call)) is not None:
        call.put("keys", reclaimed.node_id, None)
        return changed(reclaimed, public_key=key, is_signed=False)
    if len(state.nodes) >= policy.max_nodes:
        raise Denied("registry full")
    node_id = max(state.next_node, policy.first_node)
    if node_id > MAX_NODE:
        raise Denied("node ID space exhausted")
    return Node(node_id=node_id, public_key=key, is_unconfirmed=True, registered=call.at)


def _reclaimable(call: Call) -> Node | None:
    """The departed node of this owner, if there is one that nothing better protects."""
    ids = call.state.departed.get(call.text("owner")[:_MAX_OWNER], ())
    for node_id in sorted(ids):
        node = call.state.nodes[node_id]
        is_due = call.now - node.gone_at >= call.state.policy.reclaim_after
        if is_due and node_id not in call.state.recoveries:
            return node
    return None


def _endpoint(call: Call, *, is_signed: bool) -> str:
    """Where to send the node's tunnels, as it says."""
    source, policy = call.source, call.state.policy
    # A source inside our own site says nothing about where the world finds the node.
    is_inside = not _is_public(source.host)
    named = is_signed and (is_inside or policy.allows_named_endpoints)
    return endpoint_of(call.text("listen_addr"), source, may_name=named)


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


def heartbeat(call: Call) -> Message:
    """Sheet 3.3. Liveness is not durable: after a restart every node gets a period of grace."""
    node = call.live()
    key = call.text("public_key")
    if key and key != values.encode_base64(node.public_key):
        # A registry that was emptied or restored gave the id to somebody else.
        raise Denied(f"node {node.node_id}: node not found: the id belongs to another key")
    call.authenticate(node, f"heartbeat:{node.node_id}")
    reply: Message = {"time": int(call.wall)}
    info = call.state.keys.get(node.node_id)
    if info is not None and info.expires:
        if call.wall >= info.expires:
            raise Denied(f"node {node.node_id}: key expired at {values.rfc3339(info.expires)}")
        if info.expires - call.wall < _EXPIRY_WARNING:
            reply["key_expiry_warning"] = True
    call.state.touch(node.node_id, call.now)
    return reply


def deregister(call: Call) -> Message:
    """Sheet 3.3; an unknown id is fine. Key, trust and waiting handshakes stay; memberships do if
    the node only stops for a while and says so (whitepaper 5: a restart preserves them)."""
    node = call.state.nodes.get(call.number("node_id"))
    if node is None or node.gone_at:
        return {}
    call.authorize(node, f"deregister:{node.node_id}")
    departed = Node(
        node_id=node.node_id,
        public_key=node.public_key,
        owner=node.owner,
        is_signed=node.is_signed,
        registered=node.registered,
        # By which a first-generation node is known when it comes back.
        endpoint=node.endpoint,
        gone_at=max(call.at, 1),
    )
    call.put_node(departed)
    if call.flag("keep_memberships"):
        return {}
    for network_id in call.state.networks_of.get(node.node_id, ()):
        call.put("members", (network_id, node.node_id), None)
    for network_id in call.state.invites.of(node.node_id):
        call.put("invites", (node.node_id, network_id), None)
    return {}


HANDLERS: Final[dict[str, Handler]] = {
    "register": register,
    "heartbeat": heartbeat,
    "deregister": deregister,
}
