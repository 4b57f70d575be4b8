"""Access to information: the one place that decides who may be told what.

Everybody may know a node's key, name, tags and visibility, a public node's endpoint, and networks
that anybody may join, with their members. The rest is restricted:

- endpoint and presence of a private node: itself, nodes in mutual trust with it, and nodes in a
  network with it;
- whether one node trusts another: the two;
- the members of a network by token or invitation: its members;
- the existence of a network by invitation: its members and those invited.

A signature on this request, or on an earlier one of its connection, proves who asks. Daemons of the
second generation sign no questions and spread them over four connections. So trust and networks are
also told to an address from which a node concerned signed something lately; SECURITY.md says what
that does not protect against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.registry.protocol.errors import Denied

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Network, Node
    from pilotstack.registry.protocol.requests.base import Asked, Reply, Request
    from pilotstack.registry.rules.call import Call


def identify(call: Call[Asked[Reply]]) -> None:
    """Records who signed a question. Without a valid signature the question is anonymous."""
    request = call.request
    if not request.requester_id:
        return
    requester = call.state.nodes.get(request.requester_id)
    if requester is None or requester.gone_at or not request.signature:
        return
    try:
        call.authenticate(requester)
    except Denied:
        # Its key was replaced, or another node has the id now.
        return


def speakers(call: Call[Request[Reply]]) -> set[int]:
    """Nodes that signed something on the request's connection."""
    return {node_id for node_id in call.source.proven if call.state.is_live(node_id)}


def askers(call: Call[Request[Reply]]) -> set[int]:
    """Nodes that a request is answered as: the speakers; on a connection without any, also the
    nodes that lately signed something from the same address."""
    found, source, state = speakers(call), call.source, call.state
    if not (source.proven or source.is_shared):
        found |= {n for n in state.neighbours.at(source.host, call.now) if state.is_live(n)}
    return found


def may_know(call: Call[Request[Reply]], node: Node) -> bool:
    """Whether endpoint and presence of a node may be told."""
    if node.public or call.is_admin():
        return True
    if not call.source.proven:
        return False
    state, target = call.state, node.node_id
    return any(asker == target or state.may_know(asker, target) for asker in speakers(call))


def may_know_pair(call: Call[Request[Reply]], a: int, b: int) -> bool:
    """Whether the trust between two nodes may be told."""
    return call.is_admin() or not {a, b}.isdisjoint(askers(call))


def networks_of(call: Call[Request[Reply]], node: Node) -> tuple[int, ...]:
    """A node's networks that may be told."""
    state = call.state
    networks = state.networks_of.get(node.node_id)
    if networks is None:
        return (0,)
    asking: set[int] | None = None
    told = [0]
    for network_id in networks:
        network = state.networks.get(network_id)
        if network is not None and network.join_rule != "open":
            asking = askers(call) if asking is None else asking
            is_member = any((network_id, asker) in state.members for asker in asking)
            if not (is_member or call.is_admin()):
                continue
        told.append(network_id)
    return tuple(told)


def may_list(call: Call[Request[Reply]], network: Network) -> bool:
    """Whether the members of a network may be told to a request without a token."""
    if network.join_rule == "open":
        return True
    members = call.state.members.of(network.network_id)
    return any(asker in members for asker in askers(call))


def may_see(call: Call[Request[Reply]], network: Network) -> bool:
    """Whether the existence of a network may be told to a request without a token."""
    if network.join_rule != "invite" or may_list(call, network):
        return True
    invites = call.state.invites
    return any((asker, network.network_id) in invites for asker in askers(call))
