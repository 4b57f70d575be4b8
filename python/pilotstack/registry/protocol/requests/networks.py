"""Requests about networks and who is in them.

Many of these are signed by challenges of this project's own, ``TYPE:NODE:NETWORK`` and, after
another colon, what the request is about; existing registries do not verify them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import (
    OPTIONAL,
    Asked,
    Count,
    Long,
    NetworkId,
    NodeId,
    OptionalFlag,
    OptionalId,
    OptionalText,
    R,
    Reply,
    Request,
    Seconds,
    Timed,
)

MAX_MEMBERS: Final = 10_000
MAX_PORTS: Final = 100
#: Bytes of a description, of a token, and of rules or a policy as JSON.
MAX_DESCRIPTION: Final = 256
MAX_TOKEN: Final = 256
MAX_JSON: Final = 64 << 10
JOIN_RULES: Final = frozenset({"open", "token", "invite"})

#: JSON that daemons interpret: an object, or its text.
Json = Annotated[object, OPTIONAL]

SIGNED = frozenset({Code.NODE_NOT_FOUND, Code.SIGNATURE})
ROLE = SIGNED | {
    *(Code.ADMIN_TOKEN, Code.INVALID, Code.NETWORK_NOT_FOUND),
    *(Code.REPLAYED, Code.ROLE, Code.SIGNATURE_TIME),
}
QUESTION = frozenset({Code.NETWORK_NOT_FOUND, Code.NOT_MEMBER})


class WithRole(Timed[R], frozen=True, kw_only=True):
    """An order to a network, for members of some roles or with a token."""

    errors: ClassVar[frozenset[Code]] = ROLE

    node_id: NodeId = 0
    network_id: NetworkId = 0

    def challenge(self) -> str:
        """``TYPE:NODE:NETWORK``, followed by ``:`` and :meth:`about` if there is that."""
        about = self.about()
        text = f"{self.__struct_config__.tag}:{self.node_id}:{self.network_id}"
        return text if about is None else f"{text}:{about}"

    def about(self) -> str | None:
        """What else is signed."""
        return None


class AskedOfNetwork(Asked[R], frozen=True, kw_only=True):
    """A question about a network, whose answer depends on who asks."""

    errors: ClassVar[frozenset[Code]] = QUESTION

    network_id: NetworkId = 0

    def challenge(self) -> str:
        """``TYPE:REQUESTER:NETWORK``."""
        return f"{self.__struct_config__.tag}:{self.requester_id}:{self.network_id}"


class CreateNetworkReply(Reply, frozen=True, tag="create_network_ok"):
    """The new network."""

    network_id: NetworkId
    name: str
    enterprise: bool
    #: Daemons carry out its rules.
    managed: bool = False


class CreateNetwork(Timed[CreateNetworkReply], frozen=True, kw_only=True, tag="create_network"):
    """Makes a network that the node owns."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {
        *(Code.ADMIN_TOKEN, Code.FULL, Code.INVALID, Code.INVALID_NAME, Code.NAME_TAKEN),
        *(Code.NETWORKS_LIMITED, Code.REPLAYED, Code.SIGNATURE_TIME),
    }

    node_id: NodeId = 0
    name: str = ""
    #: ``open``, ``token`` or ``invite``; empty means open.
    join_rule: str = ""
    #: What members must know, for ``token``.
    token: str = ""
    #: Stands in for the owner later.
    network_admin_token: OptionalText = ""
    #: Only staff invites, and the owner cannot just leave.
    enterprise: OptionalFlag = False
    rules: Json = None
    expr_policy: Json = None

    def challenge(self) -> str:
        """``create_network:NODE:NAME``."""
        return f"create_network:{self.node_id}:{self.name}"


class JoinReply(Reply, frozen=True):
    """A member's address in the network, and what its daemon is to carry out."""

    network_id: NetworkId
    address: str | UnsetType = UNSET
    rules: object = UNSET
    expr_policy: object = UNSET


class JoinNetworkReply(JoinReply, frozen=True, tag="join_network_ok"):
    """The node is a member."""


class JoinNetwork(Request[JoinNetworkReply], frozen=True, kw_only=True, tag="join_network"):
    """Becomes a member, as the network's rule says."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {
        *(Code.INVALID, Code.INVITE_ONLY, Code.JOIN_TOKEN, Code.MEMBER, Code.NETWORK_NOT_FOUND),
    }

    node_id: NodeId = 0
    network_id: NetworkId = 0
    token: str = ""
    #: Read by other registries only.
    inviter_id: NodeId = 0

    def challenge(self) -> str:
        """``join_network:NODE:NETWORK``."""
        return f"join_network:{self.node_id}:{self.network_id}"


class LeaveNetworkReply(Reply, frozen=True, tag="leave_network_ok"):
    """The node is no member any more."""

    network_id: NetworkId


class LeaveNetwork(Request[LeaveNetworkReply], frozen=True, kw_only=True, tag="leave_network"):
    """Ends a node's own membership."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {
        *(Code.INVALID, Code.NETWORK_NOT_FOUND, Code.NOT_MEMBER),
    }

    node_id: NodeId = 0
    network_id: NetworkId = 0

    def challenge(self) -> str:
        """``leave_network:NODE:NETWORK``."""
        return f"leave_network:{self.node_id}:{self.network_id}"


class DeleteNetworkReply(Reply, frozen=True, tag="delete_network_ok"):
    """It is gone."""

    network_id: NetworkId


class DeleteNetwork(WithRole[DeleteNetworkReply], frozen=True, kw_only=True, tag="delete_network"):
    """Ends a network; nobody gets its id for a while."""


class RenameNetworkReply(Reply, frozen=True, tag="rename_network_ok"):
    """Its new name."""

    network_id: NetworkId
    name: str


class RenameNetwork(WithRole[RenameNetworkReply], frozen=True, kw_only=True, tag="rename_network"):
    """Gives a network another name."""

    errors: ClassVar[frozenset[Code]] = ROLE | {Code.INVALID_NAME, Code.NAME_TAKEN}

    name: str = ""

    def about(self) -> str:
        """The name."""
        return self.name


class SetJoinTokenReply(Reply, frozen=True, tag="set_join_token_ok"):
    """Who shows the new token may join from now on."""

    network_id: NetworkId
    #: Unix seconds; 0 is never.
    expires: Seconds = 0


class SetJoinToken(WithRole[SetJoinTokenReply], frozen=True, kw_only=True, tag="set_join_token"):
    """Replaces what nodes must know to join."""

    token: str = ""
    #: Seconds for which it serves; 0 is for ever.
    ttl: Count = 0

    def about(self) -> str:
        """The time for which it serves."""
        return str(self.ttl)


class SetNetworkEnterpriseReply(Reply, frozen=True, tag="set_network_enterprise_ok"):
    """As it is now."""

    network_id: NetworkId
    enterprise: bool


class SetNetworkEnterprise(
    Request[SetNetworkEnterpriseReply], frozen=True, kw_only=True, tag="set_network_enterprise"
):
    """Whether only staff may invite, and the owner may not just leave; for the operator."""

    errors: ClassVar[frozenset[Code]] = frozenset(
        {Code.ADMIN_TOKEN, Code.INVALID, Code.NETWORK_NOT_FOUND}
    )

    network_id: NetworkId = 0
    enterprise: bool = False


class NetworkRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network in a list."""

    id: NetworkId
    name: str
    join_rule: str
    enterprise: bool
    #: Unix seconds.
    created: Long
    #: For those who may know who is in it.
    members: Count | UnsetType = UNSET
    max_members: int = 0
    description: str = ""
    #: It has rules, which its members are told.
    managed: bool = False
    rules: object = UNSET
    has_expr_policy: bool = False


class ListNetworksReply(Reply, frozen=True, tag="list_networks_ok"):
    """The asker's networks first, then others that it may see."""

    networks: tuple[NetworkRow, ...]
    #: Where to go on, if there are more.
    next_offset: Count = 0


class ListNetworks(Asked[ListNetworksReply], frozen=True, kw_only=True, tag="list_networks"):
    """Asks which networks there are."""

    offset: OptionalId = 0

    def challenge(self) -> str:
        """``list_networks:REQUESTER``."""
        return f"list_networks:{self.requester_id}"


class NetworkPolicyReply(Reply, frozen=True):
    """The limits of a network."""

    network_id: NetworkId
    max_members: int
    allowed_ports: tuple[int, ...]
    description: str


class GetNetworkPolicyReply(NetworkPolicyReply, frozen=True, tag="get_network_policy_ok"):
    """The limits."""


class SetNetworkPolicyReply(NetworkPolicyReply, frozen=True, tag="set_network_policy_ok"):
    """The new limits."""


class GetNetworkPolicy(
    AskedOfNetwork[GetNetworkPolicyReply], frozen=True, kw_only=True, tag="get_network_policy"
):
    """Asks for the limits, of the backbone, too."""


class SetNetworkPolicy(
    WithRole[SetNetworkPolicyReply], frozen=True, kw_only=True, tag="set_network_policy"
):
    """Sets the limits that are given."""

    #: 0 is no limit.
    max_members: object = UNSET
    allowed_ports: object = UNSET
    description: str | UnsetType = UNSET


class GetExprPolicyReply(Reply, frozen=True, tag="get_expr_policy_ok"):
    """What daemons carry out."""

    network_id: NetworkId
    expr_policy: object = UNSET


class GetExprPolicy(
    AskedOfNetwork[GetExprPolicyReply], frozen=True, kw_only=True, tag="get_expr_policy"
):
    """Asks for what daemons carry out."""


class SetExprPolicyReply(Reply, frozen=True, tag="set_expr_policy_ok"):
    """What daemons carry out now."""

    network_id: NetworkId
    expr_policy: object = UNSET
    cleared: bool = False


class SetExprPolicy(WithRole[SetExprPolicyReply], frozen=True, kw_only=True, tag="set_expr_policy"):
    """Sets or clears what daemons carry out."""

    expr_policy: Json = None


REQUESTS: Final = (
    CreateNetwork,
    JoinNetwork,
    LeaveNetwork,
    DeleteNetwork,
    RenameNetwork,
    SetJoinToken,
    SetNetworkEnterprise,
    ListNetworks,
    GetNetworkPolicy,
    SetNetworkPolicy,
    GetExprPolicy,
    SetExprPolicy,
)
