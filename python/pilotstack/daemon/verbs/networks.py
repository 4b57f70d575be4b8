"""Verbs about networks: what this node is a member of, what its owner does with them, and datagrams
to all members."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from pilotstack.daemon.replies import answer_of
from pilotstack.daemon.state import BACKBONE
from pilotstack.errors import InvalidArgument, PermissionDenied, Unavailable
from pilotstack.ipc import codes
from pilotstack.ipc import network_answers as a
from pilotstack.ipc import network_requests as r
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pilotstack.daemon.state import NodeState
    from pilotstack.daemon.verbs.table import Table
    from pilotstack.registry.client import RegistryClient

#: Datagrams of a broadcast that leave at once, and seconds before the next so many: a member that
#: we have no tunnel to costs two questions to the registry and a key exchange.
BURST: Final = 64
PAUSE: Final = 0.02


class Datagrams(Protocol):
    """The part of the core that sends datagrams."""

    def send_datagram(self, network: int, node: int, port: int, data: bytes) -> None:
        """Sends one datagram; it may be lost."""


class Limits(Protocol):
    """What networks allow."""

    async def refresh(self, network: int) -> None:
        """Learns the policy of a network anew."""

    async def changed(self, network: int) -> None:
        """Learns a policy that has just been changed."""

    async def allows(self, network: int, port: int) -> bool:
        """Whether members may use a port there."""


class Memberships(Protocol):
    """The networks that this node is in."""

    @property
    def policies(self) -> Limits:
        """What they allow."""

    async def refresh_networks(self) -> None:
        """Learns them anew."""

    async def is_member(self, network: int) -> bool:
        """Whether this node is in a network; asks again before it says no."""


class NetworkVerbs:
    """Answers drivers about networks.

    Args:
        state: of this node.
        registry: knows networks.
        core: sends broadcasts.
        memberships: know which networks this node is in.
        admin_token: of the registry, for drivers that give none; broadcasts need it then.
    """

    def __init__(
        self,
        state: NodeState,
        registry: RegistryClient,
        core: Datagrams,
        memberships: Memberships,
        admin_token: str,
    ) -> None:
        self._state = state
        self._registry = registry
        self._core = core
        self._memberships = memberships
        self._refresh = memberships.refresh_networks
        self._admin_token = admin_token

    def add_to(self, table: Table) -> None:
        """Lets these verbs answer."""
        table.add(r.ListNetworks, self.list_networks)
        table.add(r.JoinNetwork, self.join)
        table.add(r.LeaveNetwork, self.leave)
        table.add(r.ListMembers, self.members)
        table.add(r.InviteNode, self.invite)
        table.add(r.ListInvites, self.invites)
        table.add(r.AnswerInvite, self.answer_invite)
        table.add(r.CreateNetwork, self.create)
        table.add(r.DeleteNetwork, self.delete)
        table.add(r.RenameNetwork, self.rename)
        table.add(r.SetJoinToken, self.set_join_token)
        table.add(r.KickMember, self.kick)
        table.add(r.PromoteMember, self.promote)
        table.add(r.DemoteMember, self.demote)
        table.add(r.TransferOwnership, self.transfer)
        table.add(r.GetLimits, self.limits)
        table.add(r.SetLimits, self.set_limits)
        table.add(r.GetRole, self.role)
        table.add(r.GetPolicy, self.policy)
        table.add(r.TagMember, self.tag_member)
        table.add(r.Broadcast, self.broadcast)

    # Membership

    async def list_networks(self, request: r.ListNetworks) -> a.Networks:
        """Networks that this node may see."""
        del request
        return answer_of(a.Networks, await self._registry.list_networks())

    async def join(self, request: r.JoinNetwork) -> a.NetworkJoined:
        """Becomes a member."""
        reply = await self._registry.join_network(request.network_id, token=request.token)
        await self._refresh()
        return answer_of(a.NetworkJoined, reply)

    async def leave(self, request: r.LeaveNetwork) -> a.NetworkLeft:
        """Ends this node's membership."""
        reply = await self._registry.leave_network(request.network_id)
        await self._refresh()
        return answer_of(a.NetworkLeft, reply)

    async def members(self, request: r.ListMembers) -> a.Members:
        """Who is in a network."""
        return answer_of(a.Members, await self._registry.list_nodes(request.network_id))

    async def invite(self, request: r.InviteNode) -> a.Invited:
        """Lets a node become a member."""
        reply = await self._registry.invite_to_network(request.network_id, request.node_id)
        return answer_of(a.Invited, reply)

    async def invites(self, request: r.ListInvites) -> a.Invites:
        """What this node is invited to."""
        del request
        return answer_of(a.Invites, await self._registry.poll_invites())

    async def answer_invite(self, request: r.AnswerInvite) -> a.InviteAnswered:
        """Accepts an invitation, or turns it down."""
        reply = await self._registry.respond_invite(request.network_id, accept=request.accept)
        await self._refresh()
        return answer_of(a.InviteAnswered, reply)

    # Owner and admins

    def _token(self, given: str) -> str:
        return given or self._admin_token

    async def create(self, request: r.CreateNetwork) -> a.NetworkCreated:
        """Makes a network of this node."""
        reply = await self._registry.create_network(
            request.name,
            join_rule=request.join_rule,
            token=request.token,
            admin_token=self._token(request.admin_token),
            network_admin_token=request.network_admin_token,
            enterprise=request.enterprise,
        )
        await self._refresh()
        return answer_of(a.NetworkCreated, reply)

    async def delete(self, request: r.DeleteNetwork) -> a.NetworkDeleted:
        """Ends a network."""
        token = self._token(request.admin_token)
        reply = await self._registry.delete_network(request.network_id, admin_token=token)
        await self._refresh()
        return answer_of(a.NetworkDeleted, reply)

    async def rename(self, request: r.RenameNetwork) -> a.NetworkRenamed:
        """Gives a network another name."""
        token = self._token(request.admin_token)
        reply = await self._registry.rename_network(
            request.network_id, request.name, admin_token=token
        )
        await self._refresh()
        return answer_of(a.NetworkRenamed, reply)

    async def set_join_token(self, request: r.SetJoinToken) -> a.JoinTokenSet:
        """Replaces what nodes must know to join."""
        reply = await self._registry.set_join_token(
            request.network_id,
            request.token,
            ttl=request.ttl,
            admin_token=self._token(request.admin_token),
        )
        return answer_of(a.JoinTokenSet, reply)

    async def kick(self, request: r.KickMember) -> a.MemberRemoved:
        """Ends somebody else's membership."""
        token = self._token(request.admin_token)
        reply = await self._registry.kick_member(
            request.network_id, request.node_id, admin_token=token
        )
        await self._refresh()
        return answer_of(a.MemberRemoved, reply)

    async def promote(self, request: r.PromoteMember) -> a.RoleSet:
        """Makes a member an admin."""
        token = self._token(request.admin_token)
        reply = await self._registry.promote_member(
            request.network_id, request.node_id, admin_token=token
        )
        await self._refresh()
        return answer_of(a.RoleSet, reply)

    async def demote(self, request: r.DemoteMember) -> a.RoleSet:
        """Makes an admin a member."""
        token = self._token(request.admin_token)
        reply = await self._registry.demote_member(
            request.network_id, request.node_id, admin_token=token
        )
        await self._refresh()
        return answer_of(a.RoleSet, reply)

    async def transfer(self, request: r.TransferOwnership) -> a.OwnershipTransferred:
        """Makes another member the owner."""
        token = self._token(request.admin_token)
        reply = await self._registry.transfer_ownership(
            request.network_id, request.node_id, admin_token=token
        )
        await self._refresh()
        return answer_of(a.OwnershipTransferred, reply)

    # Policies of ports, which the core enforces

    async def limits(self, request: r.GetLimits) -> a.Limits:
        """What a network allows."""
        return answer_of(a.Limits, await self._registry.get_network_policy(request.network_id))

    async def set_limits(self, request: r.SetLimits) -> a.Limits:
        """Sets what a network allows."""
        reply = await self._registry.set_network_policy(
            request.network_id,
            max_members=request.max_members,
            allowed_ports=request.allowed_ports,
            description=request.description,
            admin_token=self._token(request.admin_token),
        )
        if request.network_id in self._state.memberships:
            await self._memberships.policies.changed(request.network_id)
        return answer_of(a.Limits, reply)

    async def role(self, request: r.GetRole) -> a.RoleSet:
        """What a member may do."""
        reply = await self._registry.get_member_role(request.network_id, request.node_id)
        return answer_of(a.RoleSet, reply)

    # Managed networks. Rules and policies are not carried out; member tags are the registry's.

    async def policy(self, request: r.GetPolicy) -> a.ManagedPolicy:
        """Says that nothing carries out policies."""
        if request.action != 0:
            raise Unavailable("managed: this daemon carries out no policies")
        return a.ManagedPolicy("none", request.network_id)

    async def tag_member(self, request: r.TagMember) -> a.MemberTags:
        """Sets a member's tags, or asks for them."""
        network_id, node_id = request.network_id, request.node_id
        if not request.is_set:
            return answer_of(
                a.MemberTags, await self._registry.get_member_tags(network_id, node_id)
            )
        if request.tags is None:
            raise InvalidArgument("managed: missing tags")
        reply = await self._registry.set_member_tags(
            network_id, node_id, list(request.tags), admin_token=self._admin_token
        )
        return answer_of(a.MemberTags, reply)

    # Broadcast

    async def broadcast(self, request: r.Broadcast) -> a.BroadcastSent:
        """Sends one datagram to every other member of a network of ours that is online."""
        await self._check_broadcast(request)
        network_id, data = request.network_id, request.data
        found = await self._registry.list_nodes(network_id)
        members = [node_id for node_id in _online(found) if node_id != self._state.node_id]
        for position, node_id in enumerate(members, 1):
            self._core.send_datagram(network_id, node_id, request.port, data)
            if position % BURST == 0:
                await anyio.sleep(PAUSE)
        return a.BroadcastSent(network_id, request.port, len(data), len(members))

    async def _check_broadcast(self, request: r.Broadcast) -> None:
        expected, given = self._admin_token.encode(), request.token.encode()
        if expected and not hmac.compare_digest(given, expected):
            raise PermissionDenied(
                "broadcast: broadcast denied: invalid admin token",
                hint="give the daemon's token with --admin-token or PILOT_ADMIN_TOKEN",
            )
        if request.network_id == BACKBONE:
            raise PermissionDenied(
                "broadcast: broadcast denied: the backbone is everybody",
                hint="make a network for those who should hear: pilotctl network create NAME",
            )
        if not await self._memberships.is_member(request.network_id):
            raise PermissionDenied(
                f"broadcast: broadcast denied: not a member of network {request.network_id}",
                hint=f"join it first: pilotctl network join {request.network_id}",
            )
        if not request.port:
            raise InvalidArgument("broadcast: port 0 is no destination")
        if not await self._memberships.policies.allows(request.network_id, request.port):
            raise PermissionDenied(
                f"broadcast: broadcast denied: network {request.network_id} does not allow "
                f"port {request.port}",
                hint=f"see: pilotctl network policy {request.network_id}",
            )
        if not 0 < len(request.data) <= codes.MAX_DATAGRAM:
            raise InvalidArgument(
                f"broadcast: a datagram has 1 to {codes.MAX_DATAGRAM} bytes, "
                f"not {len(request.data)}"
            )


def _online(found: Mapping[str, object]) -> list[int]:
    """Members that are online; rows of a registry that make no sense are left out."""
    rows = found.get("nodes")
    members = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    ids = (values.number(row, "node_id") for row in members if not values.flag(row, "offline"))
    return [node_id for node_id in ids if node_id]
