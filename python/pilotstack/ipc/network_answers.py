"""Answers about networks: JSON of the daemon's socket."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from pilotstack.ipc.answers import Answer, SparseAnswer, always
from pilotstack.types import Address  # noqa: TC001 - msgspec reads annotations


class NetworkInfo(SparseAnswer, frozen=True):
    """A network of agents."""

    id: int
    name: str = ""
    #: ``open``, ``token`` or ``invite``.
    join_rule: str = ""
    enterprise: bool = always(False)
    #: Unix seconds.
    created: int = 0
    #: How many members it has; -1 if the registry does not tell.
    members: int = -1
    max_members: int = 0
    description: str = ""
    #: It has rules that members carry out.
    managed: bool = False
    #: The rules, for members.
    rules: object = None
    has_expr_policy: bool = False


class Networks(SparseAnswer, frozen=True):
    """Networks that this node may see, its own first."""

    networks: tuple[NetworkInfo, ...] | None = always(())
    #: There are more.
    next_offset: int = 0
    type: str = always("list_networks_ok")


class NetworkCreated(SparseAnswer, frozen=True):
    """A network of this node."""

    network_id: int
    name: str
    enterprise: bool = always(False)
    managed: bool = False
    type: str = always("create_network_ok")


class NetworkJoined(SparseAnswer, frozen=True):
    """This node's address in a network, and what its members carry out."""

    network_id: int
    address: Address
    rules: object = None
    expr_policy: object = None
    type: str = always("join_network_ok")


class NetworkLeft(Answer, frozen=True):
    """This node is not a member any more."""

    network_id: int
    type: str = "leave_network_ok"


class NetworkDeleted(Answer, frozen=True):
    """A network is gone."""

    network_id: int
    type: str = "delete_network_ok"


class NetworkRenamed(Answer, frozen=True):
    """A network has another name."""

    network_id: int
    name: str
    type: str = "rename_network_ok"


class JoinTokenSet(Answer, frozen=True):
    """A network has another token."""

    network_id: int
    #: Unix seconds; 0 is never.
    expires: int = 0
    type: str = "set_join_token_ok"


class Member(SparseAnswer, frozen=True):
    """A node in a network; other members can dial its address there."""

    node_id: int
    address: Address
    #: ``owner``, ``admin`` or ``member``; empty if the registry does not tell.
    role: str = ""
    member_tags: tuple[str, ...] = ()
    offline: bool = False
    public: bool | UnsetType = UNSET
    #: RFC 3339.
    last_seen: str = ""
    hostname: str = ""
    tags: tuple[str, ...] = ()
    task_exec: bool = False
    version: str = ""
    #: IP address and port of a public node.
    real_addr: str = ""

    @property
    def is_online(self) -> bool:
        """Whether the registry heard from it lately."""
        return not self.offline


class Members(SparseAnswer, frozen=True):
    """Who is in a network."""

    nodes: tuple[Member, ...] | None = always(())
    #: There are more.
    next_offset: int = 0
    type: str = always("list_nodes_ok")


class Invited(SparseAnswer, frozen=True):
    """A node may become a member."""

    network_id: int
    target_node_id: int
    #: ``already_invited`` if it was before.
    status: str = ""
    type: str = always("invite_to_network_ok")


class Invite(Answer, frozen=True):
    """An invitation to a network that waits for an answer."""

    network_id: int
    inviter_id: int = 0
    #: Unix seconds.
    timestamp: int = 0


class Invites(Answer, frozen=True):
    """What this node is invited to."""

    invites: tuple[Invite, ...] | None = ()
    type: str = "poll_invites_ok"


class InviteAnswered(SparseAnswer, frozen=True):
    """An invitation was accepted or turned down."""

    accepted: bool
    network_id: int
    #: This node's address in the network.
    address: Address | UnsetType = UNSET
    rules: object = None
    expr_policy: object = None
    type: str = always("respond_invite_ok")


class MemberRemoved(Answer, frozen=True):
    """A node is not a member any more."""

    network_id: int
    target_node_id: int
    type: str = "kick_member_ok"


class RoleSet(Answer, frozen=True):
    """What a member may do, as asked or as it is now."""

    network_id: int
    target_node_id: int
    role: str
    #: ``promote_member_ok``, ``demote_member_ok`` or ``get_member_role_ok``.
    type: str


class OwnershipTransferred(Answer, frozen=True):
    """A network has another owner."""

    network_id: int
    old_owner: int
    new_owner: int
    type: str = "transfer_ownership_ok"


class Limits(Answer, frozen=True):
    """What a network allows."""

    network_id: int
    #: 0 is no limit.
    max_members: int
    #: Ports of streams and datagrams between members; none at all allows every port.
    allowed_ports: tuple[int, ...] | None
    description: str
    #: ``get_network_policy_ok`` or ``set_network_policy_ok``.
    type: str


class ManagedPolicy(Answer, frozen=True):
    """What carries out the policy of a network."""

    engine: str
    network_id: int
    type: str = "managed_policy_ok"


class MemberTags(SparseAnswer, kw_only=True, frozen=True):
    """Tags of one member, or of all by node id."""

    network_id: int
    target_node_id: int
    tags: tuple[str, ...] | UnsetType = UNSET
    members: dict[str, tuple[str, ...]] | UnsetType = UNSET
    next_offset: int = 0
    #: ``get_member_tags_ok`` or ``set_member_tags_ok``.
    type: str


#: A number that the daemon does not tell.
UNTOLD = -1


class BroadcastSent(Answer, frozen=True):
    """How many members a datagram was sent to; -1 if the daemon does not tell."""

    network_id: int
    port: int
    bytes: int
    members: int
