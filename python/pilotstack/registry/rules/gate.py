"""Who may be told what (whitepaper 4.1, privacy): the one gate that every request goes through.

Open to everybody are a node's key, name, tags and visibility, a public node's endpoint, and
networks that anybody may join, with their members. Everything else is for those whom it concerns:

- endpoint and presence of a private node: itself, those it trusts and that trust it, and those that
  share a network with it;
- whether one node trusts another: the two;
- who is in a network by token or invitation: its members;
- that a network by invitation exists: its members and whoever is invited.

Who asks is proved by a signature, on this request or an earlier one of its connection. Daemons of
the second generation sign no questions and spread them over four connections. So trust and networks
are also told to an address from which one of those concerned signed something lately; SECURITY.md
says what that cannot give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.registry.model.auth import Denied

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Network, Node
    from pilotstack.registry.rules.call import Call


def identify(call: Call, challenge: str) -> None:
    """Takes note of who signed a question. One without a signature, or by somebody unknown, is
    anybody's.

    Args:
        challenge: what is signed, with ``{}`` for who asks.
    """
    if "requester_id" not in call.message:
        return
    requester_id = call.number("requester_id")
    requester = call.state.nodes.get(requester_id)
    if requester is None or requester.gone_at or not call.text("signature"):
        return
    try:
        call.authenticate(requester, challenge.format(requester_id))
    except Denied:
        # Its key was replaced, or the id is another's by now: it is told what everybody is.
        return


def speakers(call: Call) -> set[int]:
    """The nodes that signed something on the connection of a request."""
    return {node_id for node_id in call.source.proven if call.state.is_live(node_id)}


def askers(call: Call) -> set[int]:
    """Whom a request is answered as: the speakers; on a connection that speaks for nobody, also the
    nodes that lately signed something at the same address."""
    found, source, state = speakers(call), call.source, call.state
    if not (source.proven or source.is_shared):
        found |= {n for n in state.neighbours.at(source.host, call.now) if state.is_live(n)}
    return found


def may_know(call: Call, node: Node) -> bool:
    """Whether endpoint and presence of a node may be told."""
    if node.public or call.is_admin():
        return True
    state, target = call.state, node.node_id
    if not call.source.proven:
        return False
    return any(asker == target or state.may_know(asker, target) for asker in speakers(call))


def may_know_pair(call: Call, a: int, b: int) -> bool:
    """Whether it may be told if two nodes trust each other."""
    return call.is_admin() or not {a, b}.isdisjoint(askers(call))


def networks_of(call: Call, node: Node) -> list[int]:
    """A node's networks that may be told."""
    state = call.state
    networks = state.networks_with_backbone(node.node_id)
    asking: set[int] | None = None
    told = []
    for network_id in networks:
        network = state.networks.get(network_id)
        if network is not None and network.join_rule != "open":
            asking = askers(call) if asking is None else asking
            is_member = any((network_id, asker) in state.members for asker in asking)
            if not (is_member or call.is_admin()):
                continue
        told.append(network_id)
    return told


def may_list(call: Call, network: Network) -> bool:
    """Whether it may be told who is in a network, to whoever has no token."""
    if network.join_rule == "open":
        return True
    members = call.state.members.of(network.network_id)
    return any(asker in members for asker in askers(call))


def may_see(call: Call, network: Network) -> bool:
    """Whether it may be told that there is such a network, to whoever has no token."""
    if network.join_rule != "invite" or may_list(call, network):
        return True
    invites = call.state.invites
    return any((asker, network.network_id) in invites for asker in askers(call))
