"""What a driver asks about networks and about this node's own key, for anyio and blocking alike."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pilotstack.client import _frames as f
from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.types import Address, Invite, Member, NetworkInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pilotstack.types import JoinRule

T = TypeVar("T")

_LIST = 0x01
_JOIN = 0x02
_LEAVE = 0x03
_MEMBERS = 0x04
_INVITE = 0x05
_POLL_INVITES = 0x06
_RESPOND = 0x07
_MANAGE = 0x80
#: Port of broadcasts unless another is named, as existing commands have it.
BROADCAST_PORT = 1000

#: A command and its payload.
Call = tuple[int, bytes]


def _network(sub: int, *parts: bytes) -> Call:
    return f.NETWORK, bytes((sub,)) + b"".join(parts)


def _id(network: int) -> bytes:
    return f.u16(network, "network")


def list_networks() -> Call:
    """All networks."""
    return _network(_LIST)


def join(network: int, token: str) -> Call:
    """Become a member."""
    return _network(_JOIN, _id(network), f.text(token, "token", f.MAX_TOKEN, may_be_empty=True))


def leave(network: int) -> Call:
    """End the membership."""
    return _network(_LEAVE, _id(network))


def members(network: int) -> Call:
    """Who is in a network."""
    return _network(_MEMBERS, _id(network))


def invite(network: int, node: int) -> Call:
    """Let a node become a member."""
    return _network(_INVITE, _id(network), f.u32(node, "node"))


def invites() -> Call:
    """What this node is invited to."""
    return _network(_POLL_INVITES)


def respond(network: int, accept: bool) -> Call:
    """Answer an invitation."""
    return _network(_RESPOND, _id(network), bytes((accept,)))


def manage(verb: str, network: int = 0, **members: object) -> Call:
    """What the owner of a network does."""
    given = {name: value for name, value in members.items() if value}
    return _network(_MANAGE, _json({"verb": verb, "network_id": network, **given}))


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"an argument is of no use: {error}") from error


def create(
    name: str, join_rule: JoinRule, token: str, admin_token: str, network_admin_token: str
) -> Call:
    """Make a network."""
    return manage(
        "create",
        name=name,
        join_rule=join_rule,
        token=token,
        admin_token=admin_token,
        network_admin_token=network_admin_token,
    )


def broadcast(network: int, data: bytes, port: int, admin_token: str) -> Call:
    """Send to all members."""
    if f.port(port) == 0:
        raise InvalidArgument("no such port: 0")
    token = f.text(admin_token, "token", f.MAX_TOKEN, may_be_empty=True)
    head = _id(network) + f.u16(port) + f.u16(len(token))
    return f.BROADCAST, head + token + f.payload(data, f.MAX_DATAGRAM)


def set_tags(tags: Sequence[str]) -> Call:
    """Say what this node can be found by."""
    if isinstance(tags, str):
        raise InvalidArgument("tags are a list of strings, not one string")
    return f.SET_TAGS, _json(list(tags))


def enroll_recovery(secret: str) -> Call:
    """Leave the hash of a secret with the registry; no secret takes it back."""
    data = f.text(secret, "secret", f.MAX_TOKEN, may_be_empty=True)
    commitment = hashlib.sha256(data).hexdigest() if secret else ""
    return f.ENROLL_RECOVERY, msgspec.json.encode({"commitment": commitment})


def rows(
    reply: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], T]
) -> tuple[T, ...]:
    """The rows of a list in a reply.

    Raises:
        InternalError: they make no sense.
    """
    try:
        return tuple(read(row) for row in reply.get(name) or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InternalError(f"the daemon sent {name} that make no sense") from error


class NetworkCalls(ABC):
    """The asynchronous driver's calls."""

    @abstractmethod
    async def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something."""

    async def networks(self) -> tuple[NetworkInfo, ...]:
        """All networks of the registry."""
        return rows(await self.call(*list_networks()), "networks", NetworkInfo.from_json)

    async def create_network(
        self,
        name: str,
        *,
        join_rule: JoinRule = "open",
        token: str = "",
        admin_token: str = "",
        network_admin_token: str = "",
    ) -> int:
        """Makes a network that this node owns, and returns its id.

        Args:
            name: 1 to 63 of a-z, 0-9 and inner hyphens.
            join_rule: who may join: everybody, whoever knows ``token``, whoever is invited.
            token: for ``join_rule="token"``.
            admin_token: the registry's, if it has one and the daemon was not told.
            network_admin_token: will stand in for the owner.

        Raises:
            InvalidArgument: the name or rule cannot be used.
            AlreadyExists: another network has the name.
            PermissionDenied: the registry wants its admin token.
        """
        call = create(name, join_rule, token, admin_token, network_admin_token)
        return int((await self.call(*call))["network_id"])

    async def join_network(self, network: int, *, token: str = "") -> Address:
        """Becomes a member, and returns this node's address there.

        Raises:
            NotFound: there is no such network.
            AlreadyExists: this node is a member.
            PermissionDenied: the token is wrong, or an invitation is needed.
        """
        return Address.parse(str((await self.call(*join(network, token)))["address"]))

    async def leave_network(self, network: int) -> None:
        """Ends this node's membership.

        Raises:
            PermissionDenied: it is no member.
        """
        await self.call(*leave(network))

    async def members(self, network: int) -> tuple[Member, ...]:
        """Who is in a network; for its members, or for everybody if it is open."""
        return rows(await self.call(*members(network)), "nodes", Member.from_json)

    async def invite(self, network: int, node: int) -> None:
        """Lets a node accept to become a member."""
        await self.call(*invite(network, node))

    async def invites(self) -> tuple[Invite, ...]:
        """What this node is invited to."""
        return rows(await self.call(*invites()), "invites", Invite.from_json)

    async def accept_invite(self, network: int) -> None:
        """Becomes a member of a network that one was invited to.

        Raises:
            NotFound: there is no invitation.
        """
        await self.call(*respond(network, True))

    async def reject_invite(self, network: int) -> None:
        """Turns an invitation down.

        Raises:
            NotFound: there is none.
        """
        await self.call(*respond(network, False))

    async def delete_network(self, network: int, *, admin_token: str = "") -> None:
        """Ends a network that this node owns."""
        await self.call(*manage("delete", network, admin_token=admin_token))

    async def rename_network(self, network: int, name: str, *, admin_token: str = "") -> None:
        """Gives a network of this node another name."""
        await self.call(*manage("rename", network, name=name, admin_token=admin_token))

    async def kick(self, network: int, node: int, *, admin_token: str = "") -> None:
        """Ends somebody else's membership."""
        await self.call(*manage("kick", network, node_id=node, admin_token=admin_token))

    async def broadcast(
        self, network: int, data: bytes, *, port: int = BROADCAST_PORT, admin_token: str = ""
    ) -> int:
        """Sends one datagram to every other member that is online, each of which may be lost.

        Args:
            admin_token: needed if the daemon has one.

        Returns:
            To how many it was sent.

        Raises:
            PermissionDenied: this node is not a member.
            InvalidArgument: the datagram is empty or too large.
        """
        reply = await self.call(*broadcast(network, data, port, admin_token))
        return int(reply.get("members", 0))

    async def set_tags(self, tags: Sequence[str]) -> None:
        """Says what this node can be found by: at most 3 tags."""
        await self.call(*set_tags(tags))

    async def register(self) -> Address:
        """Puts this node on the network again after :meth:`deregister`."""
        return Address.parse(str((await self.call(f.REGISTER))["address"]))

    async def rotate_key(self) -> str:
        """Replaces this node's key, and returns the new public one in base64. Peers check the new
        key as soon as they hear of it, and streams under the old one end.

        Raises:
            ConnectionFailed: whether it was replaced is not known; both keys are kept.
        """
        return str((await self.call(f.ROTATE_KEY))["public_key"])

    async def enroll_recovery(self, secret: str) -> None:
        """Lets whoever knows ``secret`` replace this node's key one day; an empty one takes that
        back. The registry gets a hash of it only."""
        await self.call(*enroll_recovery(secret))


class BlockingNetworkCalls(ABC):
    """The blocking driver's calls; see :class:`NetworkCalls` for arguments and errors."""

    @abstractmethod
    def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something."""

    def networks(self) -> tuple[NetworkInfo, ...]:
        """All networks of the registry."""
        return rows(self.call(*list_networks()), "networks", NetworkInfo.from_json)

    def create_network(
        self,
        name: str,
        *,
        join_rule: JoinRule = "open",
        token: str = "",
        admin_token: str = "",
        network_admin_token: str = "",
    ) -> int:
        """Makes a network that this node owns, and returns its id."""
        call = create(name, join_rule, token, admin_token, network_admin_token)
        return int(self.call(*call)["network_id"])

    def join_network(self, network: int, *, token: str = "") -> Address:
        """Becomes a member, and returns this node's address there."""
        return Address.parse(str(self.call(*join(network, token))["address"]))

    def leave_network(self, network: int) -> None:
        """Ends this node's membership."""
        self.call(*leave(network))

    def members(self, network: int) -> tuple[Member, ...]:
        """Who is in a network."""
        return rows(self.call(*members(network)), "nodes", Member.from_json)

    def invite(self, network: int, node: int) -> None:
        """Lets a node accept to become a member."""
        self.call(*invite(network, node))

    def invites(self) -> tuple[Invite, ...]:
        """What this node is invited to."""
        return rows(self.call(*invites()), "invites", Invite.from_json)

    def accept_invite(self, network: int) -> None:
        """Becomes a member of a network that one was invited to."""
        self.call(*respond(network, True))

    def reject_invite(self, network: int) -> None:
        """Turns an invitation down."""
        self.call(*respond(network, False))

    def delete_network(self, network: int, *, admin_token: str = "") -> None:
        """Ends a network that this node owns."""
        self.call(*manage("delete", network, admin_token=admin_token))

    def rename_network(self, network: int, name: str, *, admin_token: str = "") -> None:
        """Gives a network of this node another name."""
        self.call(*manage("rename", network, name=name, admin_token=admin_token))

    def kick(self, network: int, node: int, *, admin_token: str = "") -> None:
        """Ends somebody else's membership."""
        self.call(*manage("kick", network, node_id=node, admin_token=admin_token))

    def broadcast(
        self, network: int, data: bytes, *, port: int = BROADCAST_PORT, admin_token: str = ""
    ) -> int:
        """Sends one datagram to every other member that is online; to how many."""
        reply = self.call(*broadcast(network, data, port, admin_token))
        return int(reply.get("members", 0))

    def set_tags(self, tags: Sequence[str]) -> None:
        """Says what this node can be found by: at most 3 tags."""
        self.call(*set_tags(tags))

    def register(self) -> Address:
        """Puts this node on the network again after ``deregister``."""
        return Address.parse(str(self.call(f.REGISTER)["address"]))

    def rotate_key(self) -> str:
        """Replaces this node's key, and returns the new public one in base64."""
        return str(self.call(f.ROTATE_KEY)["public_key"])

    def enroll_recovery(self, secret: str) -> None:
        """Lets whoever knows ``secret`` replace this node's key one day."""
        self.call(*enroll_recovery(secret))
