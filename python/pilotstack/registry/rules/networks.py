"""Networks and who may join them (sheet 3.8; whitepaper 3.2, 4.1 and 5).

Membership is the trust boundary: members may know each other's endpoints. So nothing here believes
a node id that is only claimed; it takes a signature, the operator's token or the network's own.

Requests that existing clients send unsigned have challenges of our own, for clients that can:
``<type>:<node>:<network>``, and after another colon what it is about: the target or the new name.
``create_network:<node>:<name>`` has no network yet. Each such signature serves once; see
:mod:`pilotstack.registry.rules.freshness` for how to sign the same again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pilotstack.registry.model import creations
from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Member, Network, Retired
from pilotstack.registry.protocol.names import check_network_name
from pilotstack.registry.rules import freshness, gate
from pilotstack.registry.rules.paging import MAX_REPLY, page, size
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

MAX_MEMBERS: Final = 10_000
MAX_PORTS: Final = 100
MAX_DESCRIPTION: Final = 256
#: Networks that one node may be in.
MAX_JOINED: Final = 256
_MAX_TOKEN: Final = 256
_MAX_JSON: Final = 64 << 10
_JOIN_RULES: Final = frozenset({"open", "token", "invite"})


def find(call: Call, what: str = "") -> Network:
    """The network that a request names.

    Args:
        what: completes "cannot ..." for the backbone, where that is no network like others.

    Raises:
        Denied: there is none.
    """
    network_id = call.number("network_id", 16)
    if network_id == 0 and what and call.message.get("network_id") == 0:
        raise Denied(f"cannot {what} the backbone network")
    network = call.state.networks.get(network_id)
    if network is None:
        raise Denied(f"network {network_id}: network not found")
    return network


def find_visible(call: Call, kind: str) -> Network:
    """The network that a question names, for whoever may know that there is one.

    Raises:
        Denied: there is none, or that must not be told.
    """
    network = find(call)
    gate.identify(call, f"{kind}:{{}}:{network.network_id}")
    if not (call.is_operator(network) or gate.may_see(call, network)):
        raise Denied(f"network {network.network_id}: network not found")
    return network


def require_role(call: Call, network: Network, roles: frozenset[str], about: object = None) -> None:
    """Lets through a token, or a member of one of the roles who signed.

    Raises:
        Denied: it is neither.
    """
    if call.is_operator(network):
        return
    if not call.text("signature"):
        is_guess = bool(call.text("admin_token"))
        raise Denied(
            "invalid admin token" if is_guess else "signature required for authenticated node"
        )
    node, kind = call.live(), call.text("type")
    suffix = "" if about is None else f":{about}"
    # The signature first: who has which role is no stranger's business.
    freshness.authenticate(call, node, f"{kind}:{node.node_id}:{network.network_id}{suffix}")
    member = call.state.members.get((network.network_id, node.node_id))
    if member is None or member.role not in roles:
        raise Denied(f"{kind} requires role {' or '.join(sorted(roles))}")


OWNER: Final = frozenset({"owner"})
STAFF: Final = frozenset({"owner", "admin"})


def create_network(call: Call) -> Message:
    """The creator owns it."""
    name = call.text("name")
    problem = check_network_name(name)
    node = _authorize_creation(call, name)
    if problem:
        raise Denied(problem)
    join_rule = call.text("join_rule") or "open"
    if join_rule not in _JOIN_RULES:
        raise Denied(f"invalid join rule: {join_rule[:32]}")
    token = _token(call, "token")
    if join_rule == "token" and not token:
        raise Denied("token-gated networks require a token")
    if name in call.state.by_network_name:
        raise Denied(f'network "{name}" already exists')
    admin_token = _token(call, "network_admin_token")
    rules, expr_policy = read_rules(call), read_expr_policy(call)
    if not call.state.policy.admin_token:
        call.state.creations.spend(node.node_id, call.source.host, call.now)
    network_id = creations.next_id(call.state, call.now)
    # What other programs noted of the last one with this id.
    call.state.unknown_rows.pop(("networks", network_id), None)
    network = Network(
        network_id=network_id,
        name=name,
        join_rule=join_rule,
        created=call.at,
        token_hash=_hash(call, token, network_id, "join"),
        admin_token_hash=_hash(call, admin_token, network_id, "admin"),
        enterprise=call.flag("enterprise"),
        rules=rules,
        expr_policy=expr_policy,
    )
    call.put("networks", network_id, network)
    call.put("retired", network_id, None)
    call.put("members", (network_id, node.node_id), Member("owner"))
    reply: Message = {"network_id": network_id, "name": name, "enterprise": network.enterprise}
    if network.rules:
        reply["managed"] = True
    return reply


def _authorize_creation(call: Call, name: str) -> Node:
    if call.state.policy.admin_token:
        if not call.is_admin():
            raise Denied("invalid admin token")
        return call.live()
    node = call.live()
    challenge = f"create_network:{node.node_id}:{name}"
    if name in call.state.by_network_name:
        # The signature may still serve when the name is free again.
        call.check(node, challenge)
    else:
        freshness.authenticate(call, node, challenge)
    networks = call.state.networks_of.get(node.node_id, ())
    members = (call.state.members.get((network_id, node.node_id)) for network_id in networks)
    limit = creations.max_owned(len(call.state.networks))
    if sum(member is not None and member.role == "owner" for member in members) >= limit:
        raise Denied(f"too many networks of node {node.node_id} (max {limit})")
    return node


def _token(call: Call, member: str) -> str:
    token = call.text(member)
    if len(token.encode()) > _MAX_TOKEN:
        raise Denied(f"{member} too long (max {_MAX_TOKEN} chars)")
    return token


def _hash(call: Call, token: str, network_id: int, purpose: str) -> str:
    return call.hash_token(token, network_id, purpose) if token else ""


def read_rules(call: Call) -> str:
    """The ``rules`` of a managed network, which daemons carry out.

    Raises:
        Denied: they are none.
    """
    rules = _json(call, "rules")
    if rules is None:
        return ""
    links = rules.get("links")
    if isinstance(links, bool) or not isinstance(links, int) or links < 1:
        raise Denied("invalid rules: links must be at least 1")
    if rules.get("prune_by", "age") not in {"score", "age", "activity"}:
        raise Denied("invalid rules: prune_by must be score, age or activity")
    return msgspec.json.encode(rules).decode()


def read_expr_policy(call: Call) -> str:
    """The ``expr_policy`` of a network, which daemons carry out.

    Raises:
        Denied: it is none.
    """
    policy = _json(call, "expr_policy")
    if policy is None:
        return ""
    if policy.get("version") != 1:
        raise Denied("invalid expr_policy: version must be 1")
    if not (isinstance(policy.get("rules"), list) and policy["rules"]):
        raise Denied("invalid expr_policy: at least one rule required")
    return msgspec.json.encode(policy).decode()


def _json(call: Call, member: str) -> dict[str, Any] | None:
    """A member that is an object, or its JSON text; ``None`` if it is empty or null."""
    value = call.message.get(member)
    try:
        if isinstance(value, str):
            value = msgspec.json.decode(value) if value else None
        is_long = value is not None and len(msgspec.json.encode(value)) > _MAX_JSON
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Denied(f"invalid {member}: not JSON") from error
    if value is None:
        return None
    if is_long:
        raise Denied(f"{member} too long (max {_MAX_JSON} bytes)")
    if not isinstance(value, dict):
        raise Denied(f"invalid {member}: not an object")
    return value


def join_network(call: Call) -> Message:
    """By the network's rule, or by the operator."""
    node = call.live()
    network = find(call, "join")
    is_admin = call.is_operator(network)
    if not is_admin:
        call.authenticate(node, f"join_network:{node.node_id}:{network.network_id}")
        if network.join_rule == "token":
            token = call.text("token")[: _MAX_TOKEN + 1]
            if not call.matches(token, network.token_hash, "join_token"):
                raise Denied(f"invalid token for network {network.network_id}")
        elif network.join_rule != "open":
            raise Denied("invite-only networks require invite_to_network + respond_invite flow")
    if (network.network_id, node.node_id) in call.state.members:
        raise Denied(f"node {node.node_id} already in network {network.network_id}")
    return admit(call, network, node.node_id)


def admit(call: Call, network: Network, node_id: int) -> Message:
    """Makes a node a member.

    Raises:
        Denied: the network is full.
    """
    network_id = network.network_id
    limit = network.max_members
    if limit and len(call.state.members.of(network_id)) >= limit:
        raise Denied("cannot join: network membership limit reached")
    if len(call.state.networks_of.get(node_id, ())) >= MAX_JOINED:
        raise Denied(f"too many networks of node {node_id} (max {MAX_JOINED})")
    call.put("members", (network_id, node_id), Member())
    call.put("invites", (node_id, network_id), None)
    reply: Message = {"network_id": network_id, "address": str(Address(network_id, node_id))}
    if network.rules:
        reply["rules"] = msgspec.json.decode(network.rules)
    if network.expr_policy:
        reply["expr_policy"] = msgspec.json.decode(network.expr_policy)
    return reply


def leave_network(call: Call) -> Message:
    """Of a node's own accord."""
    node = call.live()
    network = find(call, "leave")
    network_id = network.network_id
    if not call.is_operator(network):
        call.authenticate(node, f"leave_network:{node.node_id}:{network_id}")
    member = call.state.members.get((network_id, node.node_id))
    if member is None:
        raise Denied(f"node {node.node_id} is not a member of network {network_id}")
    if network.enterprise and member.role == "owner":
        raise Denied("cannot leave network: owner must transfer ownership first")
    call.put("members", (network_id, node.node_id), None)
    return {"network_id": network_id}


def delete_network(call: Call) -> Message:
    """Ends a network; nobody gets its id for a while."""
    network = find(call, "delete")
    require_role(call, network, OWNER)
    network_id = network.network_id
    call.put("networks", network_id, None)
    call.put("retired", network_id, Retired(call.at))
    for node_id in call.state.members.of(network_id):
        call.put("members", (network_id, node_id), None)
    return {"network_id": network_id}


def rename_network(call: Call) -> Message:
    """Gives a network another name."""
    network = find(call, "rename")
    name = call.text("name")
    if problem := check_network_name(name):
        raise Denied(problem)
    require_role(call, network, STAFF, name)
    if call.state.by_network_name.get(name, network.network_id) != network.network_id:
        raise Denied(f'network "{name}" already exists')
    call.put("networks", network.network_id, msgspec.structs.replace(network, name=name))
    return {"network_id": network.network_id, "name": name}


def set_network_enterprise(call: Call) -> Message:
    """Whether only staff may invite, and the owner may not just leave."""
    network = find(call, "change")
    if not call.is_admin():
        raise Denied("invalid admin token")
    enterprise = call.flag("enterprise")
    call.put(
        "networks", network.network_id, msgspec.structs.replace(network, enterprise=enterprise)
    )
    return {"network_id": network.network_id, "enterprise": enterprise}


def list_networks(call: Call) -> Message:
    """All networks that the asker may see, its own first, in the shape of both generations of
    registries at once. A reply that is cut names the ``offset`` to go on with."""
    gate.identify(call, "list_networks:{}")
    state, offset = call.state, call.number("offset")
    own = {network for node in gate.askers(call) for network in state.networks_of.get(node, ())}
    is_admin = call.is_admin()
    first: list[Message] = []
    if offset == 0:
        first.append(
            {
                "id": 0,
                "name": "backbone",
                "join_rule": "open",
                "members": state.live_nodes,
                "enterprise": False,
                "created": state.created,
            }
        )
        first += (_entry(call, state.networks[number], own) for number in sorted(own))
        first = _fit_rules(first)
    room = MAX_REPLY - sum(map(size, first))
    others = (
        (at, _entry(call, network, own))
        for at, network in enumerate(islice(state.networks.values(), offset, None), offset)
        if network.network_id not in own and (is_admin or gate.may_see(call, network))
    )
    listed, is_cut = page(others, room=room)
    reply: Message = {"networks": [*first, *(row for _, row in listed)]}
    if is_cut:
        reply["next_offset"] = listed[-1][0] + 1
    return reply


def _entry(call: Call, network: Network, own: set[int]) -> Message:
    network_id = network.network_id
    row: Message = {
        "id": network_id,
        "name": network.name,
        "join_rule": network.join_rule,
        "enterprise": network.enterprise,
        "created": network.created,
    }
    is_own = network_id in own
    if is_own or gate.may_list(call, network) or call.is_admin():
        row["members"] = len(call.state.members.of(network_id))
    if network.max_members:
        row["max_members"] = network.max_members
    if network.description:
        row["description"] = network.description
    if network.rules:
        row["managed"] = True
        if is_own:
            # Members carry them out; others are told when they join.
            row["rules"] = msgspec.json.decode(network.rules)
    if network.expr_policy:
        row["has_expr_policy"] = True
    return row


def _fit_rules(rows: list[Message]) -> list[Message]:
    """The rows of a node's own networks; when there is no room for all their rules, the rules of
    the last ones are left out, which joining again or a page of its own would tell."""
    room = MAX_REPLY // 2
    for row in rows:
        room -= size(row)
        if room < 0 and "rules" in row:
            room += size(row.pop("rules"))
    return rows


def get_network_policy(call: Call) -> Message:
    """For whoever may see the network; of the backbone, too: daemons ask at their start."""
    network_id = call.number("network_id", 16)
    if network_id == 0:
        return {"network_id": 0, "max_members": 0, "allowed_ports": [], "description": ""}
    return _policy(find_visible(call, "get_network_policy"))


def _policy(network: Network) -> Message:
    return {
        "network_id": network.network_id,
        "max_members": network.max_members,
        "allowed_ports": list(network.allowed_ports),
        "description": network.description,
    }


def set_network_policy(call: Call) -> Message:
    """Sets the members that are given."""
    network = find(call, "set the policy of")
    require_role(call, network, STAFF)
    members: dict[str, Any] = {}
    if "max_members" in call.message:
        members["max_members"] = _max_members(call.message["max_members"])
    if "allowed_ports" in call.message:
        members["allowed_ports"] = _ports(call.message["allowed_ports"])
    if "description" in call.message:
        members["description"] = call.text("description")
        if len(members["description"].encode()) > MAX_DESCRIPTION:
            raise Denied(f"description too long (max {MAX_DESCRIPTION} chars)")
    network = msgspec.structs.replace(network, **members)
    call.put("networks", network.network_id, network)
    return _policy(network)


def _max_members(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MEMBERS:
        raise Denied(f"invalid max_members: must be 0 to {MAX_MEMBERS}")
    return value


def _ports(value: object) -> tuple[int, ...]:
    ports = value if isinstance(value, list) else []
    if len(ports) > MAX_PORTS:
        raise Denied(f"too many allowed ports (max {MAX_PORTS})")
    for port in ports:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16:
            raise Denied("invalid port: must be 1 to 65535")
    return tuple(ports)


def get_expr_policy(call: Call) -> Message:
    """For whoever may see the network: daemons carry it out."""
    if call.number("network_id", 16) == 0:
        return {"network_id": 0}
    network = find_visible(call, "get_expr_policy")
    reply: Message = {"network_id": network.network_id}
    if network.expr_policy:
        reply["expr_policy"] = msgspec.json.decode(network.expr_policy)
    return reply


def set_expr_policy(call: Call) -> Message:
    """Sets or clears what daemons carry out."""
    network = find(call, "set the policy of")
    require_role(call, network, STAFF)
    policy = read_expr_policy(call)
    call.put("networks", network.network_id, msgspec.structs.replace(network, expr_policy=policy))
    reply: Message = {"network_id": network.network_id}
    if policy:
        reply["expr_policy"] = msgspec.json.decode(policy)
    else:
        reply["cleared"] = True
    return reply


HANDLERS: Final[dict[str, Handler]] = {
    "create_network": create_network,
    "join_network": join_network,
    "leave_network": leave_network,
    "delete_network": delete_network,
    "rename_network": rename_network,
    "set_network_enterprise": set_network_enterprise,
    "list_networks": list_networks,
    "get_network_policy": get_network_policy,
    "set_network_policy": set_network_policy,
    "get_expr_policy": get_expr_policy,
    "set_expr_policy": set_expr_policy,
}
