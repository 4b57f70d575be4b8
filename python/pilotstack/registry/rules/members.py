"""Members of a network: invitations, roles, tags and the list of them (sheet 3.8)."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Invite
from pilotstack.registry.protocol import values
from pilotstack.registry.rules import gate
from pilotstack.registry.rules.attributes import read_tags
from pilotstack.registry.rules.networks import OWNER, STAFF, admit, find, find_visible, require_role
from pilotstack.registry.rules.paging import page
from pilotstack.registry.rules.trust import INBOX_TTL, MAX_INBOX, make_room
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Member, Network
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler


def invite_to_network(call: Call) -> Message:
    """Any member may invite; in an enterprise network the owner and admins may."""
    network = find(call, "invite to")
    inviter_id, target_id = call.number("inviter_id"), call.number("target_node_id")
    network_id = network.network_id
    if inviter_id == target_id:
        raise Denied("cannot invite yourself")
    if not call.is_operator(network):
        inviter = call.node(inviter_id)
        call.authenticate(inviter, f"invite:{inviter_id}:{network_id}:{target_id}")
        member = _member(call, network, inviter_id)
        if network.enterprise and member.role not in STAFF:
            raise Denied("invite_to_network requires role admin or owner")
    call.node(target_id)
    if (network_id, target_id) in call.state.members:
        raise Denied(f"node {target_id} already in network {network_id}")
    reply: Message = {"network_id": network_id, "target_node_id": target_id}
    invites = call.state.invites.of(target_id)
    known = invites.get(network_id)
    if known is not None and _stands(call, network_id, known):
        return reply | {"status": "already_invited"}
    if known is None and len(invites) >= MAX_INBOX:
        senders = {network: invite.inviter_id for network, invite in invites.items()}
        make_room(call, "invites", target_id, inviter_id, senders)
    call.put("invites", (target_id, network_id), Invite(inviter_id, call.at))
    call.wake(target_id)
    return reply


def _member(call: Call, network: Network, node_id: int) -> Member:
    member = call.state.members.get((network.network_id, node_id))
    if member is None:
        raise Denied(f"node {node_id} is not a member of network {network.network_id}")
    return member


def poll_invites(call: Call) -> Message:
    """What a node is invited to. Polling takes nothing away."""
    node = call.live()
    call.authenticate(node, f"poll_invites:{node.node_id}")
    invites = [
        {
            "network_id": network_id,
            "inviter_id": invite.inviter_id,
            "timestamp": invite.timestamp,
        }
        for network_id, invite in call.state.invites.of(node.node_id).items()
        if _stands(call, network_id, invite)
    ]
    return {"invites": invites}


def _stands(call: Call, network_id: int, invite: Invite) -> bool:
    network = call.state.networks.get(network_id)
    # An earlier network with this id does not invite to the next.
    is_its_own = network is not None and invite.timestamp >= network.created
    return is_its_own and call.now - invite.timestamp <= INBOX_TTL


def respond_invite(call: Call) -> Message:
    """Takes an invitation up, or turns it down."""
    node, network_id = call.live(), call.number("network_id", 16)
    node_id = node.node_id
    call.authenticate(node, f"respond_invite:{node_id}:{network_id}")
    invite = call.state.invites.get((node_id, network_id))
    network = call.state.networks.get(network_id)
    if invite is None or network is None or invite.timestamp < network.created:
        raise Denied(f"no pending invite for node {node_id} to network {network_id} (not found)")
    if call.now - invite.timestamp > INBOX_TTL:
        raise Denied(f"invite for node {node_id} to network {network_id} has expired")
    accept = call.flag("accept")
    reply: Message = {"accepted": accept, "network_id": network_id}
    if accept and (network_id, node_id) not in call.state.members:
        reply |= admit(call, network, node_id)
    call.put("invites", (node_id, network_id), None)
    return reply


def kick_member(call: Call) -> Message:
    """Removes somebody else."""
    network, target_id = find(call, "kick from"), call.number("target_node_id")
    require_role(call, network, STAFF, target_id)
    if _member(call, network, target_id).role == "owner":
        raise Denied("cannot kick the network owner")
    call.put("members", (network.network_id, target_id), None)
    return {"network_id": network.network_id, "target_node_id": target_id}


def promote_member(call: Call) -> Message:
    """Makes a member an admin."""
    return _set_role(call, "promote", "admin", "an admin")


def demote_member(call: Call) -> Message:
    """Makes an admin a member."""
    return _set_role(call, "demote", "member", "a member")


def _set_role(call: Call, verb: str, role: str, named: str) -> Message:
    network, target_id = find(call, f"{verb} in"), call.number("target_node_id")
    require_role(call, network, OWNER, target_id)
    member = _member(call, network, target_id)
    if member.role == "owner":
        raise Denied(f"cannot {verb} the owner")
    if member.role == role:
        raise Denied(f"node {target_id} is already {named}")
    key = (network.network_id, target_id)
    call.put("members", key, msgspec.structs.replace(member, role=role))
    return {"network_id": network.network_id, "target_node_id": target_id, "role": role}


def transfer_ownership(call: Call) -> Message:
    """Makes another member the owner, and the old owner an admin."""
    network, new_owner = find(call, "transfer"), call.number("new_owner_id")
    network_id = network.network_id
    require_role(call, network, OWNER, new_owner)
    member = _member(call, network, new_owner)
    old_owner = 0
    for node_id, other in call.state.members.of(network_id).items():
        if other.role == "owner" and node_id != new_owner:
            old_owner = node_id
            call.put("members", (network_id, node_id), msgspec.structs.replace(other, role="admin"))
    call.put("members", (network_id, new_owner), msgspec.structs.replace(member, role="owner"))
    return {"network_id": network_id, "old_owner": old_owner, "new_owner": new_owner}


def get_member_role(call: Call) -> Message:
    """For those who may list the members."""
    network, target_id = _find_listed(call, "get_member_role"), call.number("target_node_id")
    role = _member(call, network, target_id).role
    return {"network_id": network.network_id, "target_node_id": target_id, "role": role}


def get_member_tags(call: Call) -> Message:
    """Of one member, or of all, for those who may list them."""
    network, target_id = _find_listed(call, "get_member_tags"), call.number("target_node_id")
    reply: Message = {"network_id": network.network_id, "target_node_id": target_id}
    if target_id:
        return reply | {"tags": list(_member(call, network, target_id).tags)}
    members, offset = call.state.members.of(network.network_id), call.number("offset")
    tagged = (
        (at, str(node_id), list(member.tags))
        for at, (node_id, member) in enumerate(islice(members.items(), offset, None), offset)
        if member.tags
    )
    rows, is_cut = page(tagged)
    reply["members"] = {node_id: tags for _, node_id, tags in rows}
    if is_cut:
        reply["next_offset"] = rows[-1][0] + 1
    return reply


def set_member_tags(call: Call) -> Message:
    """What a member does in this network."""
    network, target_id = find(call, "set member tags in"), call.number("target_node_id")
    tags = read_tags(call, "member tag")
    require_role(call, network, STAFF, target_id)
    member = _member(call, network, target_id)
    key = (network.network_id, target_id)
    call.put("members", key, msgspec.structs.replace(member, tags=tags))
    return {"network_id": network.network_id, "target_node_id": target_id, "tags": list(tags)}


def list_nodes(call: Call) -> Message:
    """Who is in a network. The backbone is not listed; others only for their members, unless
    anybody could become one."""
    if call.number("network_id", 16) == 0:
        raise Denied("listing backbone nodes is not permitted (use lookup with a specific node_id)")
    network = _find_listed(call, "list_nodes")
    offset = call.number("offset")
    members = call.state.members.of(network.network_id)
    rows = islice(members.items(), offset, None)
    listed, is_cut = page(_describe(call, network, *row) for row in rows)
    reply: Message = {"nodes": listed}
    if is_cut:
        reply["next_offset"] = offset + len(listed)
    return reply


def _find_listed(call: Call, kind: str) -> Network:
    """The network that a question names, for those who may know who is in it.

    Raises:
        Denied: there is none, or who asks may not.
    """
    network = find_visible(call, kind)
    if not (call.is_operator(network) or gate.may_list(call, network)):
        raise Denied(f"listing network {network.network_id} requires membership: not a member")
    return network


def _describe(call: Call, network: Network, node_id: int, member: Member) -> Message:
    row: Message = {
        "node_id": node_id,
        "address": str(Address(network.network_id, node_id)),
        "role": member.role,
    }
    if member.tags:
        row["member_tags"] = list(member.tags)
    node = call.state.nodes.get(node_id)
    if node is None or node.gone_at:
        row["offline"] = True
        return row
    row["public"] = node.public
    if gate.may_know(call, node):
        if node_id in call.state.offline:
            row["offline"] = True
        row["last_seen"] = values.rfc3339(call.seen(node_id))
    optional = {
        "hostname": node.hostname,
        "tags": list(node.tags),
        "task_exec": node.task_exec,
        "version": node.version,
        "real_addr": node.endpoint if node.public else "",
    }
    return row | {name: value for name, value in optional.items() if value}


HANDLERS: Final[dict[str, Handler]] = {
    "invite_to_network": invite_to_network,
    "poll_invites": poll_invites,
    "respond_invite": respond_invite,
    "kick_member": kick_member,
    "promote_member": promote_member,
    "demote_member": demote_member,
    "transfer_ownership": transfer_ownership,
    "get_member_role": get_member_role,
    "get_member_tags": get_member_tags,
    "set_member_tags": set_member_tags,
    "list_nodes": list_nodes,
}
