"""Members of a network: invitations, roles, tags and the list of them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model.rows import Invite
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.members import (
    DemoteMember,
    DemoteMemberReply,
    GetMemberRole,
    GetMemberRoleReply,
    GetMemberTags,
    GetMemberTagsReply,
    InviteRow,
    InviteToNetwork,
    InviteToNetworkReply,
    KickMember,
    KickMemberReply,
    ListNodes,
    ListNodesReply,
    MemberRow,
    PollInvites,
    PollInvitesReply,
    PromoteMember,
    PromoteMemberReply,
    RespondInvite,
    RespondInviteReply,
    SetMemberTags,
    SetMemberTagsReply,
    TransferOwnership,
    TransferOwnershipReply,
)
from pilotstack.registry.rules import gate
from pilotstack.registry.rules.access import (
    OWNER,
    STAFF,
    find,
    find_listed,
    member_of,
    require_role,
)
from pilotstack.registry.rules.attributes import check_tags
from pilotstack.registry.rules.networks import admit
from pilotstack.registry.rules.paging import page
from pilotstack.registry.rules.policies import as_json
from pilotstack.registry.rules.trust import INBOX_TTL, MAX_INBOX, make_room
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Member, Network
    from pilotstack.registry.protocol.requests.base import Reply, Request
    from pilotstack.registry.rules.call import Call, Handlers


def invite_to_network(call: Call[InviteToNetwork]) -> InviteToNetworkReply:
    """Invites a node. Any member may, in an enterprise network only owner and admins."""
    request = call.request
    network = find(call.state, request.network_id, "invite to")
    inviter_id, target_id, network_id = (
        request.inviter_id,
        request.target_node_id,
        network.network_id,
    )
    if inviter_id == target_id:
        raise Denied("cannot invite yourself", Code.INVALID)
    if not call.is_operator(network):
        call.authenticate(call.node(inviter_id))
        member = member_of(call, network, inviter_id)
        if network.enterprise and member.role not in STAFF:
            raise Denied("invite_to_network requires role admin or owner", Code.ROLE)
    call.node(target_id)
    if (network_id, target_id) in call.state.members:
        raise Denied(f"node {target_id} already in network {network_id}", Code.MEMBER)
    invites = call.state.invites.of(target_id)
    known = invites.get(network_id)
    if known is not None and _is_valid(call, network_id, known):
        return InviteToNetworkReply(
            network_id=network_id, target_node_id=target_id, status="already_invited"
        )
    if known is None and len(invites) >= MAX_INBOX:
        senders = {network: invite.inviter_id for network, invite in invites.items()}
        make_room(call, "invites", target_id, inviter_id, senders)
    call.put("invites", (target_id, network_id), Invite(inviter_id, call.at))
    call.wake(target_id)
    return InviteToNetworkReply(network_id=network_id, target_node_id=target_id)


def poll_invites(call: Call[PollInvites]) -> PollInvitesReply:
    """A node's invitations, which stay."""
    node = call.live(call.request.node_id)
    call.authenticate(node)
    return PollInvitesReply(
        invites=tuple(
            InviteRow(network_id, invite.inviter_id, invite.timestamp)
            for network_id, invite in call.state.invites.of(node.node_id).items()
            if _is_valid(call, network_id, invite)
        )
    )


def _is_valid(call: Call[Request[Reply]], network_id: int, invite: Invite) -> bool:
    network = call.state.networks.get(network_id)
    # An earlier network with this id does not invite to the next.
    is_of_network = network is not None and invite.timestamp >= network.created
    return is_of_network and call.now - invite.timestamp <= INBOX_TTL


def respond_invite(call: Call[RespondInvite]) -> RespondInviteReply:
    """Accepts or rejects an invitation."""
    node, network_id = call.live(call.request.node_id), call.request.network_id
    node_id, accept = node.node_id, call.request.accept
    call.authenticate(node)
    invite = call.state.invites.get((node_id, network_id))
    network = call.state.networks.get(network_id)
    if invite is None or network is None or invite.timestamp < network.created:
        text = f"no pending invite for node {node_id} to network {network_id} (not found)"
        raise Denied(text, Code.NO_INVITE)
    if call.now - invite.timestamp > INBOX_TTL:
        text = f"invite for node {node_id} to network {network_id} has expired"
        raise Denied(text, Code.EXPIRED)
    reply = RespondInviteReply(accepted=accept, network_id=network_id)
    if accept and (network_id, node_id) not in call.state.members:
        admit(call, network, node_id)
        reply = msgspec.structs.replace(
            reply,
            address=str(Address(network_id, node_id)),
            rules=as_json(network.rules),
            expr_policy=as_json(network.expr_policy),
        )
    call.put("invites", (node_id, network_id), None)
    return reply


def kick_member(call: Call[KickMember]) -> KickMemberReply:
    """Removes a member."""
    target_id = call.request.target_node_id
    network = find(call.state, call.request.network_id, "kick from")
    require_role(call, network, STAFF)
    if member_of(call, network, target_id).role == "owner":
        raise Denied("cannot kick the network owner", Code.INVALID)
    call.put("members", (network.network_id, target_id), None)
    call.tell_removal(network.network_id, target_id, call.state.members.of(network.network_id))
    return KickMemberReply(network_id=network.network_id, target_node_id=target_id)


def promote_member(call: Call[PromoteMember]) -> PromoteMemberReply:
    """Makes a member an admin."""
    network_id = _set_role(call, "promote", "admin", "an admin")
    return PromoteMemberReply(
        network_id=network_id, target_node_id=call.request.target_node_id, role="admin"
    )


def demote_member(call: Call[DemoteMember]) -> DemoteMemberReply:
    """Makes an admin a member."""
    network_id = _set_role(call, "demote", "member", "a member")
    return DemoteMemberReply(
        network_id=network_id, target_node_id=call.request.target_node_id, role="member"
    )


def _set_role(
    call: Call[PromoteMember] | Call[DemoteMember], verb: str, role: str, named: str
) -> int:
    target_id = call.request.target_node_id
    network = find(call.state, call.request.network_id, f"{verb} in")
    require_role(call, network, OWNER)
    member = member_of(call, network, target_id)
    if member.role == "owner":
        raise Denied(f"cannot {verb} the owner", Code.INVALID)
    if member.role == role:
        raise Denied(f"node {target_id} is already {named}", Code.ALREADY)
    key = (network.network_id, target_id)
    call.put("members", key, msgspec.structs.replace(member, role=role))
    return network.network_id


def transfer_ownership(call: Call[TransferOwnership]) -> TransferOwnershipReply:
    """Makes another member the owner, and the old owner an admin."""
    new_owner = call.request.new_owner_id
    network = find(call.state, call.request.network_id, "transfer")
    network_id = network.network_id
    require_role(call, network, OWNER)
    member = member_of(call, network, new_owner)
    old_owner = 0
    for node_id, other in call.state.members.of(network_id).items():
        if other.role == "owner" and node_id != new_owner:
            old_owner = node_id
            call.put("members", (network_id, node_id), msgspec.structs.replace(other, role="admin"))
    call.put("members", (network_id, new_owner), msgspec.structs.replace(member, role="owner"))
    return TransferOwnershipReply(network_id=network_id, old_owner=old_owner, new_owner=new_owner)


def get_member_role(call: Call[GetMemberRole]) -> GetMemberRoleReply:
    """A member's role, for those who may list the members."""
    network, target_id = find_listed(call), call.request.target_node_id
    return GetMemberRoleReply(
        network_id=network.network_id,
        target_node_id=target_id,
        role=member_of(call, network, target_id).role,
    )


def get_member_tags(call: Call[GetMemberTags]) -> GetMemberTagsReply:
    """The tags of one member, or of all, for those who may list the members."""
    network, target_id = find_listed(call), call.request.target_node_id
    network_id = network.network_id
    if target_id:
        tags = member_of(call, network, target_id).tags
        return GetMemberTagsReply(network_id=network_id, target_node_id=target_id, tags=tags)
    members, offset = call.state.members.of(network_id), call.request.offset
    tagged = (
        (at, str(node_id), member.tags)
        for at, (node_id, member) in enumerate(islice(members.items(), offset, None), offset)
        if member.tags
    )
    rows, is_cut = page(tagged)
    return GetMemberTagsReply(
        network_id=network_id,
        target_node_id=0,
        members={node_id: tags for _, node_id, tags in rows},
        next_offset=rows[-1][0] + 1 if is_cut else 0,
    )


def set_member_tags(call: Call[SetMemberTags]) -> SetMemberTagsReply:
    """Sets a member's tags in this network."""
    target_id = call.request.target_node_id
    network = find(call.state, call.request.network_id, "set member tags in")
    tags = check_tags(call.request.tags, "member tag")
    require_role(call, network, STAFF)
    member = member_of(call, network, target_id)
    key = (network.network_id, target_id)
    call.put("members", key, msgspec.structs.replace(member, tags=tags))
    return SetMemberTagsReply(network_id=network.network_id, target_node_id=target_id, tags=tags)


def list_nodes(call: Call[ListNodes]) -> ListNodesReply:
    """The members of a network, for members unless anybody may join. The backbone is not listed."""
    if call.request.network_id == 0:
        text = "listing backbone nodes is not permitted (use lookup with a specific node_id)"
        raise Denied(text, Code.DENIED)
    network, offset = find_listed(call), call.request.offset
    members = call.state.members.of(network.network_id)
    rows = islice(members.items(), offset, None)
    listed, is_cut = page(_describe(call, network, *row) for row in rows)
    return ListNodesReply(nodes=tuple(listed), next_offset=offset + len(listed) if is_cut else 0)


def _describe(call: Call[ListNodes], network: Network, node_id: int, member: Member) -> MemberRow:
    address = str(Address(network.network_id, node_id))
    node = call.state.nodes.get(node_id)
    if node is None or node.gone_at:
        return MemberRow(node_id, address, member.role, member_tags=member.tags, offline=True)
    may_know = gate.may_know(call, node)
    return MemberRow(
        node_id,
        address,
        member.role,
        member_tags=member.tags,
        offline=may_know and node_id in call.state.offline,
        public=node.public,
        last_seen=values.rfc3339(call.seen(node_id)) if may_know else "",
        hostname=node.hostname,
        tags=node.tags,
        task_exec=node.task_exec,
        version=node.version,
        # One that takes relayed frames only hides it, as in lookups.
        real_addr=node.endpoint if node.public and not node.relay_only else "",
    )


HANDLERS: Final[Handlers] = {
    InviteToNetwork: invite_to_network,
    PollInvites: poll_invites,
    RespondInvite: respond_invite,
    KickMember: kick_member,
    PromoteMember: promote_member,
    DemoteMember: demote_member,
    TransferOwnership: transfer_ownership,
    GetMemberRole: get_member_role,
    GetMemberTags: get_member_tags,
    SetMemberTags: set_member_tags,
    ListNodes: list_nodes,
}
