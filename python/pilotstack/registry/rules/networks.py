"""Networks: making, joining, leaving and listing them.

Membership is the trust boundary: members may know each other's endpoints. So nothing here believes
a node id that is only claimed; it takes a signature, the operator's token or the network's own.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from pilotstack.registry.model import creations
from pilotstack.registry.model.rows import Member, Network, Retired
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.names import network_name_problem
from pilotstack.registry.protocol.requests.networks import (
    JOIN_RULES,
    MAX_TOKEN,
    CreateNetwork,
    CreateNetworkReply,
    DeleteNetwork,
    DeleteNetworkReply,
    JoinNetwork,
    JoinNetworkReply,
    LeaveNetwork,
    LeaveNetworkReply,
    ListNetworks,
    ListNetworksReply,
    NetworkRow,
    RenameNetwork,
    RenameNetworkReply,
    SetJoinToken,
    SetJoinTokenReply,
    SetNetworkEnterprise,
    SetNetworkEnterpriseReply,
)
from pilotstack.registry.rules import freshness, gate
from pilotstack.registry.rules.access import OWNER, STAFF, find, require_role
from pilotstack.registry.rules.paging import MAX_REPLY, page, size
from pilotstack.registry.rules.policies import as_json, read_expr_policy, read_rules
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.rules.call import Call, Handlers

#: Networks that one node may be in.
MAX_JOINED: Final = 256


def create_network(call: Call[CreateNetwork]) -> CreateNetworkReply:
    """Makes a network, owned by the node that asks."""
    request, state = call.request, call.state
    problem = network_name_problem(request.name)
    node = _authorize_creation(call)
    if problem is not None:
        raise Denied(problem.text, problem.code)
    network = _read_network(call)
    if not state.policy.admin_token:
        state.creations.spend(node.node_id, call.source.host, call.now)
    network_id = creations.next_id(state, call.now)
    # What other programs noted of the last network with this id.
    state.unknown_rows.pop(("networks", network_id), None)
    network = msgspec.structs.replace(
        network,
        network_id=network_id,
        token_hash=_hash(call, request.token, network_id, "join"),
        admin_token_hash=_hash(call, request.network_admin_token, network_id, "admin"),
    )
    call.put("networks", network_id, network)
    call.put("retired", network_id, None)
    call.put("members", (network_id, node.node_id), Member("owner"))
    return CreateNetworkReply(
        network_id=network_id,
        name=network.name,
        enterprise=network.enterprise,
        managed=bool(network.rules),
    )


def _read_network(call: Call[CreateNetwork]) -> Network:
    """The network that a request describes, without id and tokens.

    Raises:
        Denied: it is malformed, or its name is taken.
    """
    request = call.request
    join_rule = request.join_rule or "open"
    if join_rule not in JOIN_RULES:
        raise Denied(f"invalid join rule: {join_rule[:32]}", Code.INVALID)
    _check_token(request.token, "token")
    if join_rule == "token" and not request.token:
        raise Denied("token-gated networks require a token", Code.INVALID)
    if request.name in call.state.by_network_name:
        raise Denied(f'network "{request.name}" already exists', Code.NAME_TAKEN)
    _check_token(request.network_admin_token, "network_admin_token")
    return Network(
        network_id=0,
        name=request.name,
        join_rule=join_rule,
        created=call.at,
        enterprise=request.enterprise,
        rules=read_rules(request.rules),
        expr_policy=read_expr_policy(request.expr_policy),
    )


def _authorize_creation(call: Call[CreateNetwork]) -> Node:
    request, state = call.request, call.state
    if state.policy.admin_token:
        if not call.is_admin():
            raise Denied("invalid admin token", Code.ADMIN_TOKEN)
        return call.live(request.node_id)
    node = call.live(request.node_id)
    if request.name in state.by_network_name:
        # Not used up: the signature may serve again when the name is free.
        call.check(node)
    else:
        freshness.authenticate(call, node)
    networks = state.networks_of.get(node.node_id, ())
    members = (state.members.get((network_id, node.node_id)) for network_id in networks)
    limit = creations.max_owned(len(state.networks))
    if sum(member is not None and member.role == "owner" for member in members) >= limit:
        text = f"too many networks of node {node.node_id} (max {limit})"
        raise Denied(text, Code.INVALID)
    return node


def _check_token(token: str, member: str) -> None:
    if len(token.encode()) > MAX_TOKEN:
        raise Denied(f"{member} too long (max {MAX_TOKEN} chars)", Code.INVALID)


def _hash(call: Call[CreateNetwork], token: str, network_id: int, purpose: str) -> str:
    return call.hash_token(token, network_id, purpose) if token else ""


def join_network(call: Call[JoinNetwork]) -> JoinNetworkReply:
    """Makes a node a member, as the network's rule says or by an admin token."""
    request = call.request
    node = call.live(request.node_id)
    network = find(call.state, request.network_id, "join")
    if not call.is_operator(network):
        call.authenticate(node)
        _check_join_rule(call, network)
    if (network.network_id, node.node_id) in call.state.members:
        text = f"node {node.node_id} already in network {network.network_id}"
        raise Denied(text, Code.MEMBER)
    admit(call, network, node.node_id)
    return JoinNetworkReply(
        network_id=network.network_id,
        address=str(Address(network.network_id, node.node_id)),
        rules=as_json(network.rules),
        expr_policy=as_json(network.expr_policy),
    )


def _check_join_rule(call: Call[JoinNetwork], network: Network) -> None:
    if network.join_rule == "token":
        token = call.request.token[: MAX_TOKEN + 1]
        if not call.matches(token, network.token_hash, "join_token"):
            text = f"invalid token for network {network.network_id}"
            raise Denied(text, Code.JOIN_TOKEN)
        if network.token_expires and call.now >= network.token_expires:
            # Told to those only who know it.
            text = f"invalid token for network {network.network_id}: it has expired"
            raise Denied(text, Code.JOIN_TOKEN)
    elif network.join_rule != "open":
        text = "invite-only networks require invite_to_network + respond_invite flow"
        raise Denied(text, Code.INVITE_ONLY)


def admit(call: Call[Request[Reply]], network: Network, node_id: int) -> None:
    """Makes a node a member.

    Raises:
        Denied: the network is full, or the node is in too many.
    """
    network_id = network.network_id
    limit = network.max_members
    if limit and len(call.state.members.of(network_id)) >= limit:
        raise Denied("cannot join: network membership limit reached", Code.INVALID)
    if len(call.state.networks_of.get(node_id, ())) >= MAX_JOINED:
        text = f"too many networks of node {node_id} (max {MAX_JOINED})"
        raise Denied(text, Code.INVALID)
    call.put("members", (network_id, node_id), Member())
    call.put("invites", (node_id, network_id), None)


def leave_network(call: Call[LeaveNetwork]) -> LeaveNetworkReply:
    """Ends a node's own membership."""
    request = call.request
    node = call.live(request.node_id)
    network = find(call.state, request.network_id, "leave")
    network_id = network.network_id
    if not call.is_operator(network):
        call.authenticate(node)
    member = call.state.members.get((network_id, node.node_id))
    if member is None:
        text = f"node {node.node_id} is not a member of network {network_id}"
        raise Denied(text, Code.NOT_MEMBER)
    if network.enterprise and member.role == "owner":
        text = "cannot leave network: owner must transfer ownership first"
        raise Denied(text, Code.INVALID)
    call.put("members", (network_id, node.node_id), None)
    call.tell_removal(network_id, node.node_id, call.state.members.of(network_id))
    return LeaveNetworkReply(network_id=network_id)


def delete_network(call: Call[DeleteNetwork]) -> DeleteNetworkReply:
    """Deletes a network; its id is not given out for a while."""
    network = find(call.state, call.request.network_id, "delete")
    require_role(call, network, OWNER)
    network_id = network.network_id
    call.put("networks", network_id, None)
    call.put("retired", network_id, Retired(call.at))
    for node_id in call.state.members.of(network_id):
        call.put("members", (network_id, node_id), None)
        call.tell_removal(network_id, node_id, (node_id,))
    return DeleteNetworkReply(network_id=network_id)


def rename_network(call: Call[RenameNetwork]) -> RenameNetworkReply:
    """Renames a network."""
    network, name = find(call.state, call.request.network_id, "rename"), call.request.name
    if problem := network_name_problem(name):
        raise Denied(problem.text, problem.code)
    require_role(call, network, STAFF)
    if call.state.by_network_name.get(name, network.network_id) != network.network_id:
        raise Denied(f'network "{name}" already exists', Code.NAME_TAKEN)
    call.put("networks", network.network_id, msgspec.structs.replace(network, name=name))
    return RenameNetworkReply(network_id=network.network_id, name=name)


def set_join_token(call: Call[SetJoinToken]) -> SetJoinTokenReply:
    """Replaces the token of a network that asks for one."""
    request = call.request
    network = find(call.state, request.network_id, "set the token of")
    network_id, ttl = network.network_id, request.ttl
    _check_token(request.token, "token")
    require_role(call, network, STAFF)
    if network.join_rule != "token" or not request.token:
        text = f"network {network_id} does not ask for a token, or none is given: invalid request"
        raise Denied(text, Code.INVALID)
    changed = msgspec.structs.replace(
        network,
        token_hash=call.hash_token(request.token, network_id, "join"),
        token_expires=int(call.now) + ttl if ttl else 0,
    )
    call.put("networks", network_id, changed)
    return SetJoinTokenReply(network_id=network_id, expires=int(call.wall) + ttl if ttl else 0)


def set_network_enterprise(call: Call[SetNetworkEnterprise]) -> SetNetworkEnterpriseReply:
    """Sets whether only staff may invite, and the owner may not just leave."""
    network, enterprise = (
        find(call.state, call.request.network_id, "change"),
        call.request.enterprise,
    )
    if not call.is_admin():
        raise Denied("invalid admin token", Code.ADMIN_TOKEN)
    network_id = network.network_id
    call.put("networks", network_id, msgspec.structs.replace(network, enterprise=enterprise))
    return SetNetworkEnterpriseReply(network_id=network_id, enterprise=enterprise)


def list_networks(call: Call[ListNetworks]) -> ListNetworksReply:
    """The networks that the asker may see, its own first, in the shape of both generations of
    registries. A reply that is cut names the ``offset`` of the next."""
    gate.identify(call)
    state, offset = call.state, call.request.offset
    own = {network for node in gate.askers(call) for network in state.networks_of.get(node, ())}
    is_admin = call.is_admin()
    first: list[NetworkRow] = []
    if offset == 0:
        first = _fit_rules([_backbone(call), *_own_rows(call, own)])
    others = (
        (at, _row(call, network))
        for at, network in enumerate(islice(state.networks.values(), offset, None), offset)
        if network.network_id not in own and (is_admin or gate.may_see(call, network))
    )
    listed, is_cut = page(others, room=MAX_REPLY - sum(map(size, first)))
    return ListNetworksReply(
        networks=(*first, *(row for _, row in listed)),
        next_offset=listed[-1][0] + 1 if is_cut else 0,
    )


def _backbone(call: Call[ListNetworks]) -> NetworkRow:
    return NetworkRow(
        id=0,
        name="backbone",
        join_rule="open",
        enterprise=False,
        created=call.state.created,
        members=call.state.live_nodes,
    )


def _own_rows(call: Call[ListNetworks], own: set[int]) -> Iterator[NetworkRow]:
    for network_id in sorted(own):
        network = call.state.networks[network_id]
        # Members carry the rules out; others are told when they join.
        yield msgspec.structs.replace(
            _row(call, network),
            members=len(call.state.members.of(network_id)),
            rules=as_json(network.rules),
        )


def _row(call: Call[ListNetworks], network: Network) -> NetworkRow:
    may_list = gate.may_list(call, network) or call.is_admin()
    return NetworkRow(
        id=network.network_id,
        name=network.name,
        join_rule=network.join_rule,
        enterprise=network.enterprise,
        created=network.created,
        members=len(call.state.members.of(network.network_id)) if may_list else UNSET,
        max_members=network.max_members,
        description=network.description,
        managed=bool(network.rules),
        has_expr_policy=bool(network.expr_policy),
    )


def _fit_rules(rows: list[NetworkRow]) -> list[NetworkRow]:
    """Rows of a node's own networks. When there is no room for all their rules, the last ones are
    left out; a node is told them when it joins."""
    room = MAX_REPLY // 2
    fitting = []
    for row in rows:
        room -= size(row)
        if room < 0 and row.rules is not UNSET:
            room += size(row.rules)
            row = msgspec.structs.replace(row, rules=UNSET)
        fitting.append(row)
    return fitting


HANDLERS: Final[Handlers] = {
    CreateNetwork: create_network,
    JoinNetwork: join_network,
    LeaveNetwork: leave_network,
    DeleteNetwork: delete_network,
    RenameNetwork: rename_network,
    SetJoinToken: set_join_token,
    SetNetworkEnterprise: set_network_enterprise,
    ListNetworks: list_networks,
}
