"""Control verbs about networks: numbers, arguments and answers."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from pilotstack.ipc import codes
from pilotstack.ipc import network_answers as n
from pilotstack.ipc.layout import (
    FLAG,
    U8,
    U16,
    U32,
    Bytes,
    CountedText,
    JsonRequest,
    Request,
    Strings,
    Text,
)

#: Bytes of the longest token; its length is two bytes.
MAX_TOKEN = 0xFFFF


class ListNetworks(Request[n.Networks], frozen=True):
    """Networks that this node may see."""

    command = codes.NETWORK
    sub = codes.NETWORK_LIST


class JoinNetwork(Request[n.NetworkJoined], frozen=True):
    """Becomes a member."""

    command = codes.NETWORK
    sub = codes.NETWORK_JOIN
    verb = "network"
    layout = (U16, Text(MAX_TOKEN, may_be_empty=True))

    network_id: int
    token: str = ""


class LeaveNetwork(Request[n.NetworkLeft], frozen=True):
    """Ends this node's membership."""

    command = codes.NETWORK
    sub = codes.NETWORK_LEAVE
    verb = "network"
    layout = (U16,)

    network_id: int


class ListMembers(Request[n.Members], frozen=True):
    """Who is in a network."""

    command = codes.NETWORK
    sub = codes.NETWORK_MEMBERS
    verb = "network"
    layout = (U16,)

    network_id: int


class InviteNode(Request[n.Invited], frozen=True):
    """Lets a node become a member."""

    command = codes.NETWORK
    sub = codes.NETWORK_INVITE
    verb = "network"
    layout = (U16, U32)

    network_id: int
    node_id: int


class ListInvites(Request[n.Invites], frozen=True):
    """What this node is invited to."""

    command = codes.NETWORK
    sub = codes.NETWORK_INVITES


class AnswerInvite(Request[n.InviteAnswered], frozen=True):
    """Accepts an invitation, or turns it down."""

    command = codes.NETWORK
    sub = codes.NETWORK_RESPOND
    verb = "network"
    layout = (U16, FLAG)

    network_id: int
    accept: bool


# What owner and admins do: one JSON object, told apart by its member ``verb``


class CreateNetwork(JsonRequest[n.NetworkCreated], tag_field="verb", tag="create", frozen=True):
    """Makes a network of this node."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    name: str = ""
    join_rule: str = "open"
    token: str = ""
    admin_token: str = ""
    network_admin_token: str = ""
    enterprise: bool = False


class DeleteNetwork(JsonRequest[n.NetworkDeleted], tag_field="verb", tag="delete", frozen=True):
    """Ends a network."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    admin_token: str = ""


class RenameNetwork(JsonRequest[n.NetworkRenamed], tag_field="verb", tag="rename", frozen=True):
    """Gives a network another name."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    name: str = ""
    admin_token: str = ""


class SetJoinToken(JsonRequest[n.JoinTokenSet], tag_field="verb", tag="token", frozen=True):
    """Replaces what nodes must know to join; ``ttl`` in seconds, 0 is for ever."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    token: str = ""
    ttl: int = 0
    admin_token: str = ""


class KickMember(JsonRequest[n.MemberRemoved], tag_field="verb", tag="kick", frozen=True):
    """Ends somebody else's membership."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    node_id: int = 0
    admin_token: str = ""


class PromoteMember(JsonRequest[n.RoleSet], tag_field="verb", tag="promote", frozen=True):
    """Makes a member an admin."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    node_id: int = 0
    admin_token: str = ""


class DemoteMember(JsonRequest[n.RoleSet], tag_field="verb", tag="demote", frozen=True):
    """Makes an admin a member."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    node_id: int = 0
    admin_token: str = ""


class TransferOwnership(
    JsonRequest[n.OwnershipTransferred], tag_field="verb", tag="transfer", frozen=True
):
    """Makes another member the owner."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    node_id: int = 0
    admin_token: str = ""


class GetLimits(JsonRequest[n.Limits], tag_field="verb", tag="policy", frozen=True):
    """What a network allows."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0


class SetLimits(JsonRequest[n.Limits], tag_field="verb", tag="set_policy", frozen=True):
    """Sets what a network allows; what is not given stays."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    #: 0 is no limit.
    max_members: int | UnsetType = UNSET
    #: None at all allows every port.
    allowed_ports: tuple[int, ...] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    admin_token: str = ""


class GetRole(JsonRequest[n.RoleSet], tag_field="verb", tag="role", frozen=True):
    """What a member may do."""

    command = codes.NETWORK
    sub = codes.NETWORK_MANAGE
    verb = "network"

    network_id: int = 0
    node_id: int = 0


#: What ``NETWORK_MANAGE`` carries.
Management = (
    CreateNetwork
    | DeleteNetwork
    | RenameNetwork
    | SetJoinToken
    | KickMember
    | PromoteMember
    | DemoteMember
    | TransferOwnership
    | GetLimits
    | SetLimits
    | GetRole
)


# Managed networks


class GetPolicy(Request[n.ManagedPolicy], frozen=True):
    """What carries out a network's policy; ``action`` 0 asks, others would set one."""

    command = codes.MANAGED
    sub = codes.MANAGED_POLICY
    verb = "managed"
    layout = (U8, U16)

    action: int
    network_id: int


class TagMember(Request[n.MemberTags], frozen=True):
    """Sets a member's tags, or asks for them without ``is_set``; node 0 stands for all members."""

    command = codes.MANAGED
    sub = codes.MANAGED_MEMBER_TAGS
    verb = "managed"
    layout = (FLAG, U16, U32, Strings(may_be_missing=True))

    is_set: bool
    network_id: int
    node_id: int
    tags: tuple[str, ...] | None = None


# Broadcast


class Broadcast(Request[n.BroadcastSent], frozen=True):
    """Sends a datagram to the other members of a network that are online."""

    command = codes.BROADCAST
    verb = "broadcast"
    layout = (
        *(U16, U16, CountedText(MAX_TOKEN, may_be_empty=True, lenient=True)),
        Bytes(codes.MAX_DATAGRAM),
    )

    network_id: int
    port: int
    token: str
    data: bytes

    def decode(self, reply: bytes) -> n.BroadcastSent:
        """Existing daemons answer nothing, and so do not tell how many heard it."""
        if reply:
            return super().decode(reply)
        return n.BroadcastSent(self.network_id, self.port, len(self.data), n.UNTOLD)
