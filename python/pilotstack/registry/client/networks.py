"""The client's requests about networks and their members.

An admin token, of the registry or of the network, stands in for membership and roles. Requests are
signed wherever we have an identity; existing registries ignore signatures that they do not verify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.base import Timed
from pilotstack.registry.protocol.requests.members import (
    DemoteMember,
    GetMemberRole,
    GetMemberTags,
    InviteToNetwork,
    KickMember,
    ListNodes,
    PollInvites,
    PromoteMember,
    RespondInvite,
    SetMemberTags,
    TransferOwnership,
)
from pilotstack.registry.protocol.requests.networks import (
    CreateNetwork,
    DeleteNetwork,
    GetNetworkPolicy,
    JoinNetwork,
    LeaveNetwork,
    ListNetworks,
    RenameNetwork,
    SetJoinToken,
    SetNetworkPolicy,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.protocol.requests.base import Reply, Request

#: Pages of a list that are asked for after the first; a page has up to 2,000 rows.
MAX_PAGES = 64


class NetworkRequests(Requests):
    """Requests about networks and their members."""

    async def create_network(
        self,
        name: str,
        *,
        join_rule: str = "open",
        token: str = "",
        admin_token: str = "",
        network_admin_token: str = "",
        enterprise: bool = False,
    ) -> Message:
        """Makes a network that we own.

        Args:
            join_rule: ``open``, ``token`` or ``invite``.
            token: what members must know, for ``token``.
            admin_token: the registry's, if it has one.
            network_admin_token: will stand in for the owner.
            enterprise: only staff invites, and the owner cannot just leave.
        """
        return await self._order(
            CreateNetwork(
                name=name,
                join_rule=join_rule,
                token=token,
                admin_token=admin_token,
                network_admin_token=network_admin_token,
                enterprise=enterprise,
            )
        )

    async def join_network(
        self, network_id: int, *, token: str = "", admin_token: str = ""
    ) -> Message:
        """Becomes a member; the reply has our address there."""
        return await self._order(
            JoinNetwork(network_id=network_id, token=token, admin_token=admin_token)
        )

    async def leave_network(self, network_id: int, *, admin_token: str = "") -> Message:
        """Ends our membership."""
        return await self._order(LeaveNetwork(network_id=network_id, admin_token=admin_token))

    async def delete_network(self, network_id: int, *, admin_token: str = "") -> Message:
        """Deletes a network."""
        return await self._order(DeleteNetwork(network_id=network_id, admin_token=admin_token))

    async def rename_network(self, network_id: int, name: str, *, admin_token: str = "") -> Message:
        """Renames a network."""
        return await self._order(
            RenameNetwork(network_id=network_id, name=name, admin_token=admin_token)
        )

    async def set_join_token(
        self, network_id: int, token: str, *, ttl: int = 0, admin_token: str = ""
    ) -> Message:
        """Replaces what nodes must know to join a network.

        Args:
            ttl: seconds for which it serves; 0 is for ever.
        """
        request = SetJoinToken(network_id=network_id, token=token, ttl=ttl, admin_token=admin_token)
        return await self._order(request)

    async def list_networks(self) -> Message:
        """All networks that we may see."""
        reply: Message = {}
        async for page in self._pages(self.asked_by_us(ListNetworks())):
            reply = _joined(reply, page, "networks")
        return reply

    async def list_nodes(self, network_id: int, *, admin_token: str = "") -> Message:
        """The members of a network."""
        question = ListNodes(network_id=network_id, admin_token=admin_token)
        if self.signer is not None:
            question = self.signed(msgspec.structs.replace(question, requester_id=self.node_id))
        reply: Message = {}
        async for page in self._pages(question):
            reply = _joined(reply, page, "nodes")
        return reply

    async def invite_to_network(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Invites a node."""
        request = InviteToNetwork(
            inviter_id=self.node_id,
            network_id=network_id,
            target_node_id=target_id,
            admin_token=admin_token,
        )
        return await self.send(self.signed(request))

    async def poll_invites(self) -> Message:
        """Our invitations, which stay."""
        return await self.send(self.signed(PollInvites(node_id=self.node_id)))

    async def respond_invite(self, network_id: int, *, accept: bool) -> Message:
        """Accepts or rejects an invitation."""
        return await self._order(RespondInvite(network_id=network_id, accept=accept))

    async def kick_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Ends another node's membership."""
        return await self._order(
            KickMember(network_id=network_id, target_node_id=target_id, admin_token=admin_token)
        )

    async def promote_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes a member an admin."""
        return await self._order(
            PromoteMember(network_id=network_id, target_node_id=target_id, admin_token=admin_token)
        )

    async def demote_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes an admin a member."""
        return await self._order(
            DemoteMember(network_id=network_id, target_node_id=target_id, admin_token=admin_token)
        )

    async def transfer_ownership(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes another member the owner."""
        return await self._order(
            TransferOwnership(
                network_id=network_id, new_owner_id=target_id, admin_token=admin_token
            )
        )

    async def get_member_role(self, network_id: int, target_id: int) -> Message:
        """``owner``, ``admin`` or ``member``."""
        question = GetMemberRole(network_id=network_id, target_node_id=target_id)
        return await self.send(self.asked_by_us(question))

    async def get_member_tags(self, network_id: int, target_id: int = 0) -> Message:
        """The tags of a member in a network, or with 0 of all its members."""
        question = self.asked_by_us(GetMemberTags(network_id=network_id, target_node_id=target_id))
        reply: Message = {}
        async for page in self._pages(question):
            known, more = reply.get("members"), page.get("members")
            reply = page
            if isinstance(known, dict) and isinstance(more, dict):
                reply = page | {"members": known | more}
        return reply

    async def set_member_tags(
        self, network_id: int, target_id: int, tags: Sequence[str], *, admin_token: str = ""
    ) -> Message:
        """Sets the tags of a member in a network."""
        return await self._order(
            SetMemberTags(
                network_id=network_id,
                target_node_id=target_id,
                tags=tuple(tags),
                admin_token=admin_token,
            )
        )

    async def get_network_policy(self, network_id: int) -> Message:
        """A network's limits."""
        return await self.send(self.asked_by_us(GetNetworkPolicy(network_id=network_id)))

    async def set_network_policy(
        self,
        network_id: int,
        *,
        max_members: int | UnsetType = UNSET,
        allowed_ports: Sequence[int] | UnsetType = UNSET,
        description: str | UnsetType = UNSET,
        admin_token: str = "",
    ) -> Message:
        """Sets a network's limits; what is not given stays."""
        ports = allowed_ports if allowed_ports is UNSET else list(allowed_ports)
        return await self._order(
            SetNetworkPolicy(
                network_id=network_id,
                max_members=max_members,
                allowed_ports=ports,
                description=description,
                admin_token=admin_token,
            )
        )

    async def _pages(self, question: Request[Reply]) -> AsyncIterator[Message]:
        """The replies to a question with an ``offset``, until one names no next offset."""
        for _ in range(1 + MAX_PAGES):
            reply = await self.send(question)
            offset = values.number(reply, "next_offset")
            reply.pop("next_offset", None)
            yield reply
            if not offset:
                return
            question = msgspec.structs.replace(question, offset=offset)

    async def _order(self, request: Request[Reply]) -> Message:
        """Sends a request of our node, signed if we have an identity, with a time where that is
        possible."""
        request = msgspec.structs.replace(request, node_id=self.node_id)
        if self.signer is None:
            return await self.send(request)
        if isinstance(request, Timed):
            return await self.send_timed(request)
        return await self.send(self.signed(request))


def _joined(reply: Message, page: Message, name: str) -> Message:
    """A page of a list with the ones before."""
    return page | {name: [*_list(reply, name), *_list(page, name)]}


def _list(reply: Message, name: str) -> list[object]:
    found = reply.get(name)
    return found if isinstance(found, list) else []
