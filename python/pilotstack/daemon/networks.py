"""The daemon's part in networks: what it is a member of, what drivers ask about networks, and
datagrams to all members (IPC sheet 1.2 and 1.4)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import msgspec

from pilotstack import _serving
from pilotstack.errors import InvalidArgument, PermissionDenied, Unavailable
from pilotstack.registry.protocol import values
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.supervisor import Daemon
    from pilotstack.registry.protocol.framing import Message

T = TypeVar("T")

#: Seconds between looks at what we are a member of (sheet 6.2).
REFRESH = 300.0
#: Datagrams of a broadcast that leave at once, and the pause before the next so many: a member that
#: we have no tunnel to costs two questions to the registry and a key exchange.
BURST = 64
PAUSE = 0.02
MAX_TAGS = 3
_BACKBONE = 0
#: Octets of a datagram's payload, as the protocol carries it.
MAX_DATAGRAM = 65_435

_LIST = 0x01
_JOIN = 0x02
_LEAVE = 0x03
_MEMBERS = 0x04
_INVITE = 0x05
_POLL_INVITES = 0x06
_RESPOND = 0x07
#: Of our own: what existing drivers leave to the registry's own connection.
_MANAGE = 0x80


class Management(msgspec.Struct, frozen=True):
    """What the owner of a network does."""

    verb: Literal["create", "delete", "rename", "kick", "promote", "demote", "transfer"]
    network_id: int = 0
    node_id: int = 0
    name: str = ""
    join_rule: str = "open"
    token: str = ""
    admin_token: str = ""
    network_admin_token: str = ""
    enterprise: bool = False


class NetworkVerbs:
    """Answers one daemon's drivers about networks."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._verbs: dict[int, Callable[[_Reader], Awaitable[Message]]] = {
            _LIST: self._list,
            _JOIN: self._join,
            _LEAVE: self._leave,
            _MEMBERS: self._members,
            _INVITE: self._invite,
            _POLL_INVITES: self._poll_invites,
            _RESPOND: self._respond,
            _MANAGE: self._manage,
        }

    @property
    def ids(self) -> list[int]:
        """Networks that we are in, without the backbone."""
        return sorted(self._daemon.networks - {_BACKBONE})

    @_serving.endless
    async def keep(self) -> None:
        """Looks from time to time, since others can make us a member or end that."""
        while True:
            await anyio.sleep(REFRESH)
            await self._daemon.refresh_networks()

    def rows(self) -> list[dict[str, Any]] | None:
        """Memberships as Info has them."""
        node = self._daemon.node_id
        rows = [{"network_id": n, "address": str(Address(n, node))} for n in self.ids]
        return rows or None

    # Network (0x1F)

    async def network(self, payload: bytes) -> Message:
        """Answers a sub-command about networks."""
        if not payload:
            raise InvalidArgument("network: missing sub-command")
        verb = self._verbs.get(payload[0])
        if verb is None:
            raise Unavailable(f"network: unknown sub-command 0x{payload[0]:02X}")
        return await verb(_Reader(payload[1:], "network"))

    async def _list(self, reader: _Reader) -> Message:
        del reader
        return await self._daemon.registry.list_networks()

    async def _join(self, reader: _Reader) -> Message:
        network_id, token = reader.u16("network_id"), reader.text()
        reply = await self._daemon.registry.join_network(network_id, token=token)
        await self._daemon.refresh_networks()
        return reply

    async def _leave(self, reader: _Reader) -> Message:
        reply = await self._daemon.registry.leave_network(reader.u16("network_id"))
        await self._daemon.refresh_networks()
        return reply

    async def _members(self, reader: _Reader) -> Message:
        return await self._daemon.registry.list_nodes(reader.u16("network_id"))

    async def _invite(self, reader: _Reader) -> Message:
        network_id, node_id = reader.u16("network_id"), reader.u32("node_id")
        return await self._daemon.registry.invite_to_network(network_id, node_id)

    async def _poll_invites(self, reader: _Reader) -> Message:
        del reader
        return await self._daemon.registry.poll_invites()

    async def _respond(self, reader: _Reader) -> Message:
        network_id, accept = reader.u16("network_id"), reader.u8("accept") == 1
        reply = await self._daemon.registry.respond_invite(network_id, accept=accept)
        await self._daemon.refresh_networks()
        return reply

    async def _manage(self, reader: _Reader) -> Message:
        order = reader.json(Management)
        token = order.admin_token or self._daemon.config.admin_token
        registry, network_id, node_id = self._daemon.registry, order.network_id, order.node_id
        match order.verb:
            case "create":
                reply = await registry.create_network(
                    order.name,
                    join_rule=order.join_rule,
                    token=order.token,
                    admin_token=token,
                    network_admin_token=order.network_admin_token,
                    enterprise=order.enterprise,
                )
            case "delete":
                reply = await registry.delete_network(network_id, admin_token=token)
            case "rename":
                reply = await registry.rename_network(network_id, order.name, admin_token=token)
            case "kick":
                reply = await registry.kick_member(network_id, node_id, admin_token=token)
            case "promote":
                reply = await registry.promote_member(network_id, node_id, admin_token=token)
            case "demote":
                reply = await registry.demote_member(network_id, node_id, admin_token=token)
            case "transfer":
                reply = await registry.transfer_ownership(network_id, node_id, admin_token=token)
        await self._daemon.refresh_networks()
        return reply

    # Managed (0x23)

    async def managed(self, payload: bytes) -> Message:
        """Answers a sub-command about managed networks. We carry out no rules and no policies;
        member tags are the registry's."""
        reader = _Reader(payload, "managed")
        match reader.u8("sub-command"):
            case 0x02 | 0x04 | 0x07:
                raise Unavailable("managed: no active managed networks")
            case 0x05 if reader.u8("action") == 0:
                network_id = reader.u16("network_id")
                return {"engine": "none", "network_id": network_id, "type": "managed_policy_ok"}
            case 0x05:
                raise Unavailable("managed: this daemon carries out no policies")
            case 0x06:
                return await self._member_tags(reader)
            case other:
                raise Unavailable(f"managed: unknown sub-command 0x{other:02X}")

    async def _member_tags(self, reader: _Reader) -> Message:
        is_set = reader.u8("action") == 1
        network_id, node_id = reader.u16("network_id"), reader.u32("node_id")
        registry = self._daemon.registry
        if not is_set:
            return await registry.get_member_tags(network_id, node_id)
        token = self._daemon.config.admin_token
        tags = reader.json(list[str])
        return await registry.set_member_tags(network_id, node_id, tags, admin_token=token)

    # Broadcast (0x29) and tags (0x19)

    async def broadcast(self, payload: bytes) -> Message:
        """Sends one datagram to every other member of a network of ours that is online."""
        reader = _Reader(payload, "broadcast")
        network_id, port = reader.u16("header"), reader.u16("header")
        token = reader.take(reader.u16("header"), "token").decode(errors="replace")
        data = reader.rest()
        self._check_broadcast(network_id, port, token, data)
        found = await self._daemon.registry.list_nodes(network_id)
        members = [node_id for node_id in _online(found) if node_id != self._daemon.node_id]
        for position, node_id in enumerate(members, 1):
            self._daemon.core.send_datagram(network_id, node_id, port, data)
            if position % BURST == 0:
                await anyio.sleep(PAUSE)
        return {"network_id": network_id, "port": port, "bytes": len(data), "members": len(members)}

    def _check_broadcast(self, network_id: int, port: int, token: str, data: bytes) -> None:
        expected = self._daemon.config.admin_token
        if expected and not hmac.compare_digest(token.encode(), expected.encode()):
            raise PermissionDenied(
                "broadcast: broadcast denied: invalid admin token",
                hint="give the daemon's token with --admin-token or PILOT_ADMIN_TOKEN",
            )
        if network_id == _BACKBONE:
            raise PermissionDenied(
                "broadcast: broadcast denied: the backbone is everybody",
                hint="make a network for those who should hear: pilotctl network create NAME",
            )
        if network_id not in self.ids:
            raise PermissionDenied(
                f"broadcast: broadcast denied: not a member of network {network_id}",
                hint=f"join it first: pilotctl network join {network_id}",
            )
        if not port:
            raise InvalidArgument("broadcast: port 0 is no destination")
        if not 0 < len(data) <= MAX_DATAGRAM:
            raise InvalidArgument(
                f"broadcast: a datagram has 1 to {MAX_DATAGRAM} octets, not {len(data)}"
            )

    async def set_tags(self, payload: bytes) -> Message:
        """Says what this node can be found by."""
        tags = _Reader(payload, "set_tags").json(list[str])
        if len(tags) > MAX_TAGS:
            raise InvalidArgument(f"set_tags: maximum {MAX_TAGS} tags allowed")
        reply = await self._daemon.registry.set_tags(tags)
        self._daemon.tags = tags
        return reply


def _online(found: Message) -> list[int]:
    rows = found.get("nodes")
    members = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    ids = (values.number(row, "node_id") for row in members if not values.flag(row, "offline"))
    return [node_id for node_id in ids if node_id]


class _Reader:
    """Takes a payload apart; what is missing is said in the words of existing daemons."""

    def __init__(self, octets: bytes, verb: str) -> None:
        self._octets = octets
        self._verb = verb

    def take(self, length: int, what: str) -> bytes:
        if len(self._octets) < length:
            missing = "truncated" if what == "token" else "missing"
            raise InvalidArgument(f"{self._verb}: {missing} {what}")
        head, self._octets = self._octets[:length], self._octets[length:]
        return head

    def rest(self) -> bytes:
        return self.take(len(self._octets), "")

    def u8(self, what: str) -> int:
        return self.take(1, what)[0]

    def u16(self, what: str) -> int:
        return int.from_bytes(self.take(2, what))

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what))

    def text(self) -> str:
        try:
            return self.rest().decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{self._verb}: not UTF-8") from error

    def json(self, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self.rest(), type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument(f"{self._verb}: invalid JSON: {error}") from error
