"""Requests about the members of a network: invitations, roles, tags and the list of them."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import (
    Count,
    Long,
    NetworkId,
    NodeId,
    OptionalId,
    R,
    Reply,
    Request,
)
from pilotstack.registry.protocol.requests.networks import (
    QUESTION,
    ROLE,
    SIGNED,
    AskedOfNetwork,
    JoinReply,
    WithRole,
)


class ToMember(WithRole[R], frozen=True, kw_only=True):
    """An order about a member."""

    errors: ClassVar[frozenset[Code]] = ROLE | {Code.NOT_MEMBER, Code.ALREADY}

    target_node_id: NodeId = 0

    def about(self) -> str:
        """The member's id."""
        return str(self.target_node_id)


class InviteToNetworkReply(Reply, frozen=True, tag="invite_to_network_ok"):
    """The invitation waits."""

    network_id: NetworkId
    target_node_id: NodeId
    #: ``already_invited``, or empty.
    status: str = ""


class InviteToNetwork(
    Request[InviteToNetworkReply], frozen=True, kw_only=True, tag="invite_to_network"
):
    """Lets a node become a member."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {
        *(Code.INVALID, Code.MEMBER, Code.NETWORK_NOT_FOUND, Code.NOT_MEMBER, Code.ROLE),
    }

    inviter_id: NodeId = 0
    network_id: NetworkId = 0
    target_node_id: NodeId = 0

    def challenge(self) -> str:
        """``invite:INVITER:NETWORK:TARGET``."""
        return f"invite:{self.inviter_id}:{self.network_id}:{self.target_node_id}"


class InviteRow(msgspec.Struct, frozen=True):
    """An invitation."""

    network_id: NetworkId
    inviter_id: NodeId
    timestamp: Long


class PollInvitesReply(Reply, frozen=True, tag="poll_invites_ok"):
    """What a node is invited to."""

    invites: tuple[InviteRow, ...]


class PollInvites(Request[PollInvitesReply], frozen=True, kw_only=True, tag="poll_invites"):
    """Asks what the node is invited to; that takes nothing away."""

    is_read: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = SIGNED

    node_id: NodeId = 0

    def challenge(self) -> str:
        """``poll_invites:NODE``."""
        return f"poll_invites:{self.node_id}"


class RespondInviteReply(JoinReply, frozen=True, kw_only=True, tag="respond_invite_ok"):
    """The answer; with an address if the node is a member now."""

    accepted: bool


class RespondInvite(Request[RespondInviteReply], frozen=True, kw_only=True, tag="respond_invite"):
    """Takes an invitation up, or turns it down."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {Code.EXPIRED, Code.INVALID, Code.NO_INVITE}

    node_id: NodeId = 0
    network_id: NetworkId = 0
    accept: bool = False

    def challenge(self) -> str:
        """``respond_invite:NODE:NETWORK``."""
        return f"respond_invite:{self.node_id}:{self.network_id}"


class KickMemberReply(Reply, frozen=True, tag="kick_member_ok"):
    """The node is no member any more."""

    network_id: NetworkId
    target_node_id: NodeId


class KickMember(ToMember[KickMemberReply], frozen=True, kw_only=True, tag="kick_member"):
    """Ends somebody else's membership."""


class RoleReply(Reply, frozen=True):
    """A member's role."""

    network_id: NetworkId
    target_node_id: NodeId
    #: ``owner``, ``admin`` or ``member``.
    role: str


class PromoteMemberReply(RoleReply, frozen=True, tag="promote_member_ok"):
    """The new role."""


class DemoteMemberReply(RoleReply, frozen=True, tag="demote_member_ok"):
    """The new role."""


class GetMemberRoleReply(RoleReply, frozen=True, tag="get_member_role_ok"):
    """The role."""


class PromoteMember(ToMember[PromoteMemberReply], frozen=True, kw_only=True, tag="promote_member"):
    """Makes a member an admin."""


class DemoteMember(ToMember[DemoteMemberReply], frozen=True, kw_only=True, tag="demote_member"):
    """Makes an admin a member."""


class TransferOwnershipReply(Reply, frozen=True, tag="transfer_ownership_ok"):
    """Whose it was, and whose it is."""

    network_id: NetworkId
    old_owner: NodeId
    new_owner: NodeId


class TransferOwnership(
    WithRole[TransferOwnershipReply], frozen=True, kw_only=True, tag="transfer_ownership"
):
    """Makes another member the owner, and the old owner an admin."""

    errors: ClassVar[frozenset[Code]] = ROLE | {Code.NOT_MEMBER}

    new_owner_id: NodeId = 0

    def about(self) -> str:
        """The new owner's id."""
        return str(self.new_owner_id)


class GetMemberRole(
    AskedOfNetwork[GetMemberRoleReply], frozen=True, kw_only=True, tag="get_member_role"
):
    """Asks for a member's role."""

    is_lookup: ClassVar[bool] = True

    target_node_id: NodeId = 0


class GetMemberTagsReply(Reply, frozen=True, tag="get_member_tags_ok"):
    """The tags of one member, or of each that has any."""

    network_id: NetworkId
    target_node_id: NodeId
    tags: tuple[str, ...] | UnsetType = UNSET
    members: dict[str, tuple[str, ...]] | UnsetType = UNSET
    #: Where to go on, if there are more.
    next_offset: Count = 0


class GetMemberTags(
    AskedOfNetwork[GetMemberTagsReply], frozen=True, kw_only=True, tag="get_member_tags"
):
    """Asks for the tags of one member, or with 0 of all."""

    is_lookup: ClassVar[bool] = True

    target_node_id: NodeId = 0
    offset: OptionalId = 0


class SetMemberTagsReply(Reply, frozen=True, tag="set_member_tags_ok"):
    """The new tags."""

    network_id: NetworkId
    target_node_id: NodeId
    tags: tuple[str, ...]


class SetMemberTags(ToMember[SetMemberTagsReply], frozen=True, kw_only=True, tag="set_member_tags"):
    """What a member does in a network."""

    errors: ClassVar[frozenset[Code]] = ToMember.errors | {Code.INVALID_NAME}

    tags: tuple[str, ...] = ()


class MemberRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member in a list."""

    node_id: NodeId
    #: Its address in this network.
    address: str
    role: str
    member_tags: tuple[str, ...] = ()
    offline: bool = False
    public: bool | UnsetType = UNSET
    #: RFC 3339; for those who may know when the node was there.
    last_seen: str = ""
    hostname: str = ""
    tags: tuple[str, ...] = ()
    task_exec: bool = False
    version: str = ""
    #: The endpoint of a public node.
    real_addr: str = ""


class ListNodesReply(Reply, frozen=True, tag="list_nodes_ok"):
    """The members of a network."""

    nodes: tuple[MemberRow, ...]
    #: Where to go on, if there are more.
    next_offset: Count = 0


class ListNodes(AskedOfNetwork[ListNodesReply], frozen=True, kw_only=True, tag="list_nodes"):
    """Asks who is in a network."""

    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = QUESTION | {Code.DENIED}

    offset: OptionalId = 0


REQUESTS: Final = (
    InviteToNetwork,
    PollInvites,
    RespondInvite,
    KickMember,
    PromoteMember,
    DemoteMember,
    TransferOwnership,
    GetMemberRole,
    GetMemberTags,
    SetMemberTags,
    ListNodes,
)
