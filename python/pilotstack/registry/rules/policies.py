"""Limits of networks, and the rules and policies that daemons carry out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.networks import (
    MAX_DESCRIPTION,
    MAX_JSON,
    MAX_MEMBERS,
    MAX_PORTS,
    GetExprPolicy,
    GetExprPolicyReply,
    GetNetworkPolicy,
    GetNetworkPolicyReply,
    SetExprPolicy,
    SetExprPolicyReply,
    SetNetworkPolicy,
    SetNetworkPolicyReply,
)
from pilotstack.registry.rules.access import STAFF, find, find_visible, require_role

if TYPE_CHECKING:
    from pilotstack.registry.rules.call import Call, Handlers


def read_rules(value: object) -> str:
    """The ``rules`` of a managed network as JSON; empty if there are none.

    Raises:
        Denied: they are malformed.
    """
    rules = _read_object("rules", value)
    if rules is None:
        return ""
    links = rules.get("links")
    if isinstance(links, bool) or not isinstance(links, int) or links < 1:
        raise Denied("invalid rules: links must be at least 1", Code.INVALID)
    if rules.get("prune_by", "age") not in {"score", "age", "activity"}:
        raise Denied("invalid rules: prune_by must be score, age or activity", Code.INVALID)
    return msgspec.json.encode(rules).decode()


def read_expr_policy(value: object) -> str:
    """The ``expr_policy`` of a network as JSON; empty if there is none.

    Raises:
        Denied: it is malformed.
    """
    policy = _read_object("expr_policy", value)
    if policy is None:
        return ""
    if policy.get("version") != 1:
        raise Denied("invalid expr_policy: version must be 1", Code.INVALID)
    if not (isinstance(policy.get("rules"), list) and policy["rules"]):
        raise Denied("invalid expr_policy: at least one rule required", Code.INVALID)
    return msgspec.json.encode(policy).decode()


def _read_object(member: str, value: object) -> dict[str, object] | None:
    """An object, or what its JSON text holds; ``None`` for an empty text or null."""
    try:
        if isinstance(value, str):
            value = msgspec.json.decode(value) if value else None
        is_long = value is not None and len(msgspec.json.encode(value)) > MAX_JSON
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Denied(f"invalid {member}: not JSON", Code.INVALID) from error
    if value is None:
        return None
    if is_long:
        raise Denied(f"{member} too long (max {MAX_JSON} bytes)", Code.INVALID)
    if not isinstance(value, dict):
        raise Denied(f"invalid {member}: not an object", Code.INVALID)
    return value


def as_json(text: str) -> msgspec.Raw | UnsetType:
    """A stored policy as a member of a reply; absent if it is empty."""
    return msgspec.Raw(text.encode()) if text else UNSET


def get_network_policy(call: Call[GetNetworkPolicy]) -> GetNetworkPolicyReply:
    """The limits of a network that the asker may see. Daemons ask for the backbone's as well, at
    their start."""
    if call.request.network_id == 0:
        return GetNetworkPolicyReply(network_id=0, max_members=0, allowed_ports=(), description="")
    network = find_visible(call)
    return GetNetworkPolicyReply(
        network_id=network.network_id,
        max_members=network.max_members,
        allowed_ports=network.allowed_ports,
        description=network.description,
    )


def set_network_policy(call: Call[SetNetworkPolicy]) -> SetNetworkPolicyReply:
    """Sets the limits that are given."""
    request = call.request
    network = find(call.state, request.network_id, "set the policy of")
    require_role(call, network, STAFF)
    if request.max_members is not UNSET:
        network = msgspec.structs.replace(network, max_members=_max_members(request.max_members))
    if request.allowed_ports is not UNSET:
        network = msgspec.structs.replace(network, allowed_ports=_ports(request.allowed_ports))
    if request.description is not UNSET:
        if len(request.description.encode()) > MAX_DESCRIPTION:
            raise Denied(f"description too long (max {MAX_DESCRIPTION} chars)", Code.INVALID)
        network = msgspec.structs.replace(network, description=request.description)
    call.put("networks", network.network_id, network)
    return SetNetworkPolicyReply(
        network_id=network.network_id,
        max_members=network.max_members,
        allowed_ports=network.allowed_ports,
        description=network.description,
    )


def _max_members(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MEMBERS:
        raise Denied(f"invalid max_members: must be 0 to {MAX_MEMBERS}", Code.INVALID)
    return value


def _ports(value: object) -> tuple[int, ...]:
    ports = value if isinstance(value, list) else []
    if len(ports) > MAX_PORTS:
        raise Denied(f"too many allowed ports (max {MAX_PORTS})", Code.INVALID)
    for port in ports:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16:
            raise Denied("invalid port: must be 1 to 65535", Code.INVALID)
    return tuple(ports)


def get_expr_policy(call: Call[GetExprPolicy]) -> GetExprPolicyReply:
    """The policy of a network that the asker may see."""
    if call.request.network_id == 0:
        return GetExprPolicyReply(network_id=0)
    network = find_visible(call)
    return GetExprPolicyReply(
        network_id=network.network_id, expr_policy=as_json(network.expr_policy)
    )


def set_expr_policy(call: Call[SetExprPolicy]) -> SetExprPolicyReply:
    """Sets or clears a network's policy."""
    network = find(call.state, call.request.network_id, "set the policy of")
    require_role(call, network, STAFF)
    policy = read_expr_policy(call.request.expr_policy)
    call.put("networks", network.network_id, msgspec.structs.replace(network, expr_policy=policy))
    return SetExprPolicyReply(
        network_id=network.network_id, expr_policy=as_json(policy), cleared=not policy
    )


HANDLERS: Final[Handlers] = {
    GetNetworkPolicy: get_network_policy,
    SetNetworkPolicy: set_network_policy,
    GetExprPolicy: get_expr_policy,
    SetExprPolicy: set_expr_policy,
}
