"""Networks and who may join them (sheet 3.8; whitepaper 3.2, 4.1 and 5).

Membership is the trust boundary: members may know each other's endpoints. So nothing here believes
a node id that is only claimed; it takes a signature, the operator's token or the network's own.

Requests that existing clients send unsigned have challenges of our own, for clients that can:
``<type>:<node>:<network>``, and after another colon what it is about: the target or the new name.
``create_network:<node>:<name>`` has no network yet.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pilotstack.registry import auth
from pilotstack.registry.attributes import check_network_name
from pilotstack.registry.auth import Denied
from pilotstack.registry.records import Member, Network
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.call import Call, Handler
    from pilotstack.registry.messages import Message
    from pilotstack.registry.records import Node

MAX_NETWORK: Final = 0xFFFF
#: Entries of a list reply; what follows is asked for with ``offset``.
MAX_LISTED: Final = 2_000
MAX_MEMBERS: Final = 10_000
MAX_PORTS: Final = 100
MAX_DESCRIPTION: Final = 256
#: Networks that one node may create while there is no admin token, and be in.
MAX_OWNED: Final = 64
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


def is_operator(call: Call, network: Network) -> bool:
    """Whether the request carries the registry's admin token or the network's."""
    if call.is_admin():
        return True
    token = call.text("admin_token")
    return bool(token) and auth.matches_token(token, network.admin_token_hash)


def require_role(call: Call, network: Network, roles: frozenset[str], about: object = None) -> None:
    """Lets through a token, or a member of one of the roles who signed.

    Raises:
        Denied: it is neither.
    """
    if is_operator(call, network):
        return
    node_id = call.number("node_id")
    member = call.state.members.get((network.network_id, node_id))
    if member is None or member.role not in roles:
        raise Denied(f"{call.text('type')} requires role {' or '.join(sorted(roles))}")
    suffix = "" if about is None else f":{about}"
    challenge = f"{call.text('type')}:{node_id}:{network.network_id}{suffix}"
    call.authenticate(call.node(node_id), challenge)


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
    network_id = call.state.next_network
    if network_id > MAX_NETWORK:
        raise Denied(f"network ID space exhausted (max {MAX_NETWORK} networks)")
    network = Network(
        network_id=network_id,
        name=name,
        join_rule=join_rule,
        created=call.at,
        token_hash=_hash(call, token, network_id, "join"),
        admin_token_hash=_hash(call, _token(call, "network_admin_token"), network_id, "admin"),
        enterprise=call.flag("enterprise"),
        rules=read_rules(call),
        expr_policy=read_expr_policy(call),
    )
    call.put("networks", network_id, network)
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
    call.authenticate(node, f"create_network:{node.node_id}:{name}")
    networks = call.state.networks_of.get(node.node_id, ())
    members = (call.state.members.get((network_id, node.node_id)) for network_id in networks)
    if sum(member is not None and member.role == "owner" for member in members) >= MAX_OWNED:
        raise Denied(f"too many networks of node {node.node_id} (max {MAX_OWNED})")
    return node


def _token(call: Call, member: str) -> str:
    token = call.text(member)
    if len(token.encode()) > _MAX_TOKEN:
        raise Denied(f"{member} too long (max {_MAX_TOKEN} chars)")
    return token


def _hash(call: Call, token: str, network_id: int, purpose: str) -> str:
    return auth.hash_token(token, call.salt(network_id, purpose)) if token else ""


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
    is_admin = is_operator(call, network)
    if not is_admin:
        call.authenticate(node, f"join_network:{node.node_id}:{network.network_id}")
        if network.join_rule == "token":
            token = call.text("token")[: _MAX_TOKEN + 1]
            if not auth.matches_token(token, network.token_hash):
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
    if not is_operator(call, network):
        call.authenticate(node, f"leave_network:{node.node_id}:{network_id}")
    member = call.state.members.get((network_id, node.node_id))
    if member is None:
        raise Denied(f"node {node.node_id} is not a member of network {network_id}")
    if network.enterprise and member.role == "owner":
        raise Denied("cannot leave network: owner must transfer ownership first")
    call.put("members", (network_id, node.node_id), None)
    return {"network_id": network_id}


def delete_network(call: Call) -> Message:
    """Ends a network; its id is not used again."""
    network = find(call, "delete")
    require_role(call, network, OWNER)
    network_id = network.network_id
    call.put("networks", network_id, None)
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
    """All networks, in the shape of both generations of registries at once."""
    state = call.state
    offset = call.number("offset")
    networks: list[Message] = []
    if offset == 0:
        networks.append(
            {
                "id": 0,
                "name": "backbone",
                "join_rule": "open",
                "members": state.live_nodes,
                "enterprise": False,
                "created": state.created,
            }
        )
    for network in islice(state.networks.values(), offset, offset + MAX_LISTED):
        row: Message = {
            "id": network.network_id,
            "name": network.name,
            "join_rule": network.join_rule,
            "members": len(state.members.of(network.network_id)),
            "enterprise": network.enterprise,
            "created": network.created,
        }
        if network.max_members:
            row["max_members"] = network.max_members
        if network.description:
            row["description"] = network.description
        if network.rules:
            row |= {"managed": True, "rules": msgspec.json.decode(network.rules)}
        if network.expr_policy:
            row["has_expr_policy"] = True
        networks.append(row)
    reply: Message = {"networks": networks}
    if offset + MAX_LISTED < len(state.networks):
        reply["next_offset"] = offset + MAX_LISTED
    return reply


def get_network_policy(call: Call) -> Message:
    """Open, and for the backbone, too: daemons ask at their start."""
    network_id = call.number("network_id", 16)
    if network_id == 0:
        return {"network_id": 0, "max_members": 0, "allowed_ports": [], "description": ""}
    return _policy(find(call))


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
    """Open: daemons carry it out."""
    if call.number("network_id", 16) == 0:
        return {"network_id": 0}
    network = find(call)
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
