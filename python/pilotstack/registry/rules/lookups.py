"""Who is where, and who may know (sheet 3.4; whitepaper 4.1, privacy).

What is open and what is not says :mod:`pilotstack.registry.rules.gate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.protocol import values
from pilotstack.registry.rules import gate

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

_DAY: Final = 86_400


def lookup(call: Call) -> Message:
    """Key, name and what else is open of a node, and the rest for those who may know it; in the
    shape of both generations of registries at once."""
    node, state = call.node(call.number("node_id")), call.state
    gate.identify(call, f"lookup:{{}}:{node.node_id}")
    info = state.keys.get(node.node_id)
    reply: Message = {
        "node_id": node.node_id,
        "address": node.address,
        "networks": gate.networks_of(call, node),
        "public_key": values.encode_base64(node.public_key),
        "public": node.public,
        "polo_score": node.polo_score,
        "key_generation": info.rotations if info else 0,
    }
    if node.hostname:
        reply["hostname"] = node.hostname
    if node.tags:
        reply["tags"] = list(node.tags)
    if node.task_exec:
        reply["task_exec"] = True
    if node.relay_only:
        reply["relay_only"] = True
    if node.version:
        reply["version"] = node.version
    if gate.may_know(call, node):
        reply["last_seen_unix"] = int(call.seen(node.node_id))
        if node.node_id in state.offline:
            reply["offline"] = True
    if node.public:
        reply["real_addr"] = reply["endpoint"] = node.endpoint
    return reply


def resolve(call: Call) -> Message:
    """The endpoint, for those who may know it."""
    requester_id, target_id = call.number("requester_id"), call.number("node_id")
    try:
        requester = call.live("requester_id")
    except Denied as denied:
        raise Denied(f"resolve denied: requester node {requester_id} is not registered") from denied
    call.authenticate(requester, f"resolve:{requester_id}:{target_id}")
    target = _reachable(call, "resolve", requester_id, target_id)
    reply: Message = {"node_id": target_id, "real_addr": target.endpoint}
    if target.lan_addrs:
        reply["lan_addrs"] = list(target.lan_addrs)
    info = call.state.keys.get(target_id)
    since = (info.rotated if info else 0) or target.registered
    if since:
        reply["key_age_days"] = max(0, int(call.now - since) // _DAY)
    return reply


def _reachable(call: Call, what: str, requester_id: int, node_id: int) -> Node:
    node, state = call.node(node_id), call.state
    if not (node.public or state.may_know(requester_id, node_id)):
        # Before anything that tells if it is there.
        raise Denied(f"{what} denied: node {node_id} is private (establish mutual trust first)")
    if node_id in state.offline:
        # Dialling where it was would only time out.
        raise Denied(f"node {node_id}: node not found (offline)")
    return node


def punch(call: Call) -> Message:
    """Both endpoints, for one of the two; a private one is as private here as in resolve."""
    requester_id = call.number("requester_id")
    a_id, b_id = call.number("node_a"), call.number("node_b")
    if requester_id not in (a_id, b_id):
        raise Denied("punch denied: requester must be participant")
    requester = call.node(requester_id)
    call.authenticate(requester, f"punch:{a_id}:{b_id}")
    other = _reachable(call, "punch", requester_id, b_id if requester_id == a_id else a_id)
    a, b = (requester, other) if requester_id == a_id else (other, requester)
    return {
        "node_a": a_id,
        "node_a_addr": a.endpoint,
        "node_b": b_id,
        "node_b_addr": b.endpoint,
    }


def resolve_hostname(call: Call) -> Message:
    """The id behind a name, never the endpoint. Clients of today do not say who asks."""
    name = call.text("hostname")
    if not name:
        raise Denied("hostname required")
    node_id = call.state.by_hostname.get(name)
    if node_id is None:
        raise Denied(f'hostname "{name[:64]}" not found')
    node = call.node(node_id)
    gate.identify(call, "resolve_hostname:{}")
    reply: Message = {
        "node_id": node_id,
        "address": node.address,
        "public": node.public,
        "hostname": name,
    }
    if gate.may_know(call, node):
        reply["last_seen_unix"] = int(call.seen(node_id))
    return reply


HANDLERS: Final[dict[str, Handler]] = {
    "lookup": lookup,
    "resolve": resolve,
    "punch": punch,
    "resolve_hostname": resolve_hostname,
}
