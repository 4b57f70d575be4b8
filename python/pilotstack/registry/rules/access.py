"""Which network a request names, and whether the sender has the role that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.rules import freshness, gate

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Member, Network
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.protocol.requests.networks import AskedOfNetwork, WithRole
    from pilotstack.registry.rules.call import Call

OWNER: Final = frozenset({"owner"})
STAFF: Final = frozenset({"owner", "admin"})


def find(state: State, network_id: int, what: str = "") -> Network:
    """A network.

    Args:
        what: completes "cannot ..." for the backbone, which is no network like others.

    Raises:
        Denied: there is none.
    """
    if network_id == 0 and what:
        raise Denied(f"cannot {what} the backbone network", Code.INVALID)
    network = state.networks.get(network_id)
    if network is None:
        raise Denied(f"network {network_id}: network not found", Code.NETWORK_NOT_FOUND)
    return network


def find_visible(call: Call[AskedOfNetwork[Reply]]) -> Network:
    """The network of a question, if the asker may know that there is one.

    Raises:
        Denied: there is none, or that must not be told.
    """
    network = find(call.state, call.request.network_id)
    gate.identify(call)
    if not (call.is_operator(network) or gate.may_see(call, network)):
        text = f"network {network.network_id}: network not found"
        raise Denied(text, Code.NETWORK_NOT_FOUND)
    return network


def find_listed(call: Call[AskedOfNetwork[Reply]]) -> Network:
    """The network of a question, if the asker may know who is in it.

    Raises:
        Denied: there is none, or the asker may not.
    """
    network = find_visible(call)
    if not (call.is_operator(network) or gate.may_list(call, network)):
        text = f"listing network {network.network_id} requires membership: not a member"
        raise Denied(text, Code.NOT_MEMBER)
    return network


def member_of(call: Call[Request[Reply]], network: Network, node_id: int) -> Member:
    """A member.

    Raises:
        Denied: the node is none.
    """
    member = call.state.members.get((network.network_id, node_id))
    if member is None:
        text = f"node {node_id} is not a member of network {network.network_id}"
        raise Denied(text, Code.NOT_MEMBER)
    return member


def require_role(call: Call[WithRole[Reply]], network: Network, roles: frozenset[str]) -> None:
    """Accepts an admin token, or the signature of a member that has one of the roles.

    Raises:
        Denied: there is neither.
    """
    if call.is_operator(network):
        return
    request = call.request
    if not request.signature and request.admin_token:
        raise Denied("invalid admin token", Code.ADMIN_TOKEN)
    if not request.signature:
        raise Denied("signature required for authenticated node", Code.SIGNATURE)
    node = call.live(request.node_id)
    # The signature first: roles are no stranger's business.
    freshness.authenticate(call, node)
    member = call.state.members.get((network.network_id, node.node_id))
    if member is None or member.role not in roles:
        kind = request.__struct_config__.tag
        raise Denied(f"{kind} requires role {' or '.join(sorted(roles))}", Code.ROLE)
