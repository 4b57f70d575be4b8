"""Requests about networks (registry sheet 3.8): who is in them, and who may become so.

An admin token, the registry's or the network's, stands in for membership and roles. Requests are
signed wherever we have an identity: what existing registries do not verify they ignore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.protocol.framing import Message

#: Pages of a list that are asked for at most; a page has up to 2,000 rows.
MAX_PAGES = 64
#: Requests whose challenges are ours; see :mod:`pilotstack.registry.rules.freshness`.
_TIMED = frozenset(
    {
        *("create_network", "delete_network", "rename_network", "transfer_ownership"),
        *("set_network_policy", "set_expr_policy", "set_member_tags"),
        *("kick_member", "promote_member", "demote_member"),
    }
)


class NetworkRequests(Requests):
    """The requests."""

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
        message: Message = {"name": name, "join_rule": join_rule, "token": token}
        if network_admin_token:
            message["network_admin_token"] = network_admin_token
        if enterprise:
            message["enterprise"] = True
        return await self._signed(
            "create_network", f"{self.node_id}:{name}", admin_token, **message
        )

    async def join_network(
        self, network_id: int, *, token: str = "", admin_token: str = ""
    ) -> Message:
        """Becomes a member; the reply has our address there."""
        about = f"{self.node_id}:{network_id}"
        members = {"network_id": network_id, "token": token, "inviter_id": 0}
        return await self._signed("join_network", about, admin_token, **members)

    async def leave_network(self, network_id: int, *, admin_token: str = "") -> Message:
        """Ends our membership."""
        return await self._with_role("leave_network", network_id, admin_token)

    async def delete_network(self, network_id: int, *, admin_token: str = "") -> Message:
        """Ends a network."""
        return await self._with_role("delete_network", network_id, admin_token)

    async def rename_network(self, network_id: int, name: str, *, admin_token: str = "") -> Message:
        """Gives a network another name."""
        return await self._with_role("rename_network", network_id, admin_token, name, name=name)

    async def list_networks(self) -> Message:
        """All networks."""
        return await self._pages(self.asked_by_us({"type": "list_networks"}), "networks")

    async def list_nodes(self, network_id: int, *, admin_token: str = "") -> Message:
        """The members of a network."""
        message: Message = {"type": "list_nodes", "network_id": network_id}
        if admin_token:
            message["admin_token"] = admin_token
        if self.signer is not None:
            message["requester_id"] = self.node_id
            message["signature"] = self.sign(f"list_nodes:{self.node_id}:{network_id}")
        return await self._pages(message, "nodes")

    async def _pages(self, message: Message, rows: str) -> Message:
        reply = await self.request(message)
        for _ in range(MAX_PAGES):
            offset = values.number(reply, "next_offset")
            if not offset:
                break
            page = await self.request(message | {"offset": offset})
            reply = page | {rows: [*_list(reply, rows), *_list(page, rows)]}
        reply.pop("next_offset", None)
        return reply

    async def invite_to_network(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Lets a node accept to become a member."""
        message: Message = {
            "type": "invite_to_network",
            "inviter_id": self.node_id,
            "network_id": network_id,
            "target_node_id": target_id,
            "signature": self.sign(f"invite:{self.node_id}:{network_id}:{target_id}"),
        }
        if admin_token:
            message["admin_token"] = admin_token
        return await self.request(message)

    async def poll_invites(self) -> Message:
        """What we are invited to; asking takes nothing away."""
        return await self.about_us("poll_invites")

    async def respond_invite(self, network_id: int, *, accept: bool) -> Message:
        """Takes an invitation up, or turns it down."""
        about = f"{self.node_id}:{network_id}"
        members = {"network_id": network_id, "accept": accept}
        return await self._signed("respond_invite", about, "", **members)

    async def kick_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Ends somebody else's membership."""
        return await self._to_member("kick_member", network_id, target_id, admin_token)

    async def promote_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes a member an admin."""
        return await self._to_member("promote_member", network_id, target_id, admin_token)

    async def demote_member(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes an admin a member."""
        return await self._to_member("demote_member", network_id, target_id, admin_token)

    async def transfer_ownership(
        self, network_id: int, target_id: int, *, admin_token: str = ""
    ) -> Message:
        """Makes another member the owner."""
        return await self._with_role(
            "transfer_ownership", network_id, admin_token, target_id, new_owner_id=target_id
        )

    async def get_member_role(self, network_id: int, target_id: int) -> Message:
        """``owner``, ``admin`` or ``member``."""
        message = {
            "type": "get_member_role",
            "network_id": network_id,
            "target_node_id": target_id,
        }
        return await self.request(self.asked_by_us(message, network_id))

    async def get_member_tags(self, network_id: int, target_id: int = 0) -> Message:
        """What a member, or with 0 each of them, does in a network."""
        message = self.asked_by_us(
            {
                "type": "get_member_tags",
                "network_id": network_id,
                "target_node_id": target_id,
            },
            network_id,
        )
        reply = await self.request(message)
        for _ in range(MAX_PAGES):
            offset, members = values.number(reply, "next_offset"), reply.get("members")
            if not (offset and isinstance(members, dict)):
                break
            page = await self.request(message | {"offset": offset})
            more = page.get("members")
            reply = page | {"members": members | (more if isinstance(more, dict) else {})}
        reply.pop("next_offset", None)
        return reply

    async def set_member_tags(
        self, network_id: int, target_id: int, tags: Sequence[str], *, admin_token: str = ""
    ) -> Message:
        """Says what a member does in a network."""
        return await self._with_role(
            "set_member_tags",
            network_id,
            admin_token,
            target_id,
            target_node_id=target_id,
            tags=list(tags),
        )

    async def get_network_policy(self, network_id: int) -> Message:
        """The network's limits."""
        message = {"type": "get_network_policy", "network_id": network_id}
        return await self.request(self.asked_by_us(message, network_id))

    async def _to_member(
        self, kind: str, network_id: int, target_id: int, admin_token: str
    ) -> Message:
        return await self._with_role(
            kind, network_id, admin_token, target_id, target_node_id=target_id
        )

    async def _with_role(
        self,
        kind: str,
        network_id: int,
        admin_token: str,
        about: object = None,
        /,
        **members: object,
    ) -> Message:
        challenge = f"{self.node_id}:{network_id}" + ("" if about is None else f":{about}")
        return await self._signed(kind, challenge, admin_token, network_id=network_id, **members)

    async def _signed(
        self, kind: str, about: str, admin_token: str, /, **members: object
    ) -> Message:
        message: Message = {"type": kind, "node_id": self.node_id, **members}
        if admin_token:
            message["admin_token"] = admin_token
        challenge = f"{kind}:{about}"
        if self.signer is not None and kind in _TIMED:
            return await self.request_timed(message, challenge)
        if self.signer is not None:
            message["signature"] = self.sign(challenge)
        return await self.request(message)


def _list(reply: Message, name: str) -> list[object]:
    found = reply.get(name)
    return found if isinstance(found, list) else []
