"""The registry's client: typed requests of one identity over a
:class:`~pilotstack.registry.client.connection.Connection`."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack.errors import ConnectionFailed, PermissionDenied
from pilotstack.registry.client.connection import Connection
from pilotstack.registry.client.identity import IdentityRequests
from pilotstack.registry.client.networks import NetworkRequests
from pilotstack.registry.client.refusals import error_of
from pilotstack.registry.client.trust import TrustRequests
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.bans import BanNode, UnbanNode
from pilotstack.registry.protocol.requests.beacons import BeaconList
from pilotstack.registry.protocol.requests.directory import (
    Lookup,
    LookupReply,
    Resolve,
    ResolveHostname,
)
from pilotstack.registry.protocol.requests.identity import (
    MAX_LAN_ADDRESS,
    MAX_LAN_ADDRESSES,
    Deregister,
    Heartbeat,
    Register,
    SetHostname,
    SetVisibility,
)
from pilotstack.registry.protocol.standing import STANDING
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.client.requests import Signer
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.protocol.tls import TlsTrust

#: Beacons of a registry's list that are looked at.
MAX_BEACONS: Final = 256


@dataclass(frozen=True, slots=True)
class Registration:
    """The result of a registration."""

    node_id: int
    address: Address
    hostname: str
    hostname_error: str
    #: When the registry took it, in Unix seconds; 0 if it does not tell.
    announced_at: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A node as the registry knows it; ``endpoint`` is empty if we may not know it."""

    node_id: int
    public_key: bytes
    public: bool
    hostname: str
    endpoint: str
    networks: frozenset[int] = frozenset()
    #: Unix seconds of its last sign of life; 0 if the registry does not tell.
    last_seen: int = 0
    #: Addresses on its own network, as it says: ``host:port``.
    lan_addrs: tuple[str, ...] = ()
    #: It takes relayed frames only; its endpoint is not told.
    relay_only: bool = False


class RegistryClient(TrustRequests, NetworkRequests, IdentityRequests):
    """Requests to a registry on behalf of one identity.

    Every method raises :exc:`ConnectionFailed` when no registry can be reached, and the error
    of :func:`error_of` when it refuses.

    Args:
        addresses: hosts and ports of the registries that keep the same state, the preferred one
            first; see :func:`~pilotstack.registry.client.connection.parse_addresses`.
        signer: the identity that signs requests; only lookups work without one.
        tls: how a registry is recognized over TLS; ``None`` means plain TCP.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        signer: Signer | None = None,
        *,
        tls: TlsTrust | None = None,
    ) -> None:
        super().__init__(signer)
        self.connection = Connection(addresses, trust=tls)

    async def aclose(self) -> None:
        """Closes the connection; the next request opens another."""
        await self.connection.aclose()

    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        """Sends one request and returns its reply.

        Args:
            wait: seconds for which the request asks the registry to hold its reply.
        """
        return self._accept(await self.connection.request(message, wait=wait))

    @staticmethod
    def _accept(reply: Message) -> Message:
        if "error" in reply:
            raise error_of(str(reply["error"]), values.text(reply, "code"))
        # Which registry answered is the connection's business.
        return {name: value for name, value in reply.items() if name not in STANDING}

    async def register(
        self,
        listen_addr: str,
        *,
        hostname: str = "",
        owner: str = "",
        version: str = "",
        lan_addrs: Sequence[str] = (),
        relay_only: bool = False,
        ephemeral: bool = False,
    ) -> Registration:
        """Registers our key; a known key keeps its id.

        Args:
            listen_addr: where tunnels are taken, ``host:port``.
            hostname: name to take.
            owner: contact that the registry keeps.
            version: of this program.
            lan_addrs: endpoints for peers on our own network.
            relay_only: peers are to come through a beacon only.
            ephemeral: the node is to be gone when it stops, if the key is new.
        """
        request = Register(
            public_key=self.key_text(),
            listen_addr=listen_addr,
            hostname=hostname,
            owner=owner,
            version=version,
            lan_addrs=tuple(lan_addrs),
            relay_only=relay_only,
            ephemeral=ephemeral,
        )
        reply = await self.ask(self.signed(request))
        self.node_id = reply.node_id
        return Registration(
            node_id=reply.node_id,
            address=Address.parse(reply.address),
            hostname=reply.hostname,
            hostname_error=reply.hostname_error,
            announced_at=reply.announced_at or 0,
        )

    async def heartbeat(self) -> int:
        """Says that we are alive.

        Returns:
            When our key last registered, in Unix seconds; 0 if the registry does not tell.

        Raises:
            NotFound: the registry does not know us, or knows another by our id.
        """
        request = Heartbeat(node_id=self.node_id, public_key=self.key_text())
        reply = await self.ask(self.signed(request))
        if reply.time:
            self.clock_skew = reply.time - int(time.time())
        return reply.announced_at or 0

    async def deregister(self, *, keep_memberships: bool = False) -> Message:
        """Ends our registration; the id stays bound to our key.

        Args:
            keep_memberships: we only stop for a while, and stay in our networks. Other
                implementations end memberships all the same.
        """
        request = Deregister(node_id=self.node_id, keep_memberships=keep_memberships)
        return await self.send(self.signed(request))

    async def set_hostname(self, hostname: str) -> Message:
        """Takes a hostname; an empty one gives it up."""
        return await self.send(self.signed(SetHostname(node_id=self.node_id, hostname=hostname)))

    async def set_visibility(self, *, public: bool) -> Message:
        """Sets whether everybody may know our endpoint."""
        return await self.send(self.signed(SetVisibility(node_id=self.node_id, public=public)))

    async def lookup(self, node_id: int) -> Message:
        """What we may know about a node, except a private one's endpoint."""
        return await self.send(self.asked_by_us(Lookup(node_id=node_id)))

    async def resolve_hostname(self, hostname: str) -> Message:
        """The id behind a hostname."""
        request = ResolveHostname(hostname=hostname, requester_id=self.node_id)
        return await self.send(self.asked_by_us(request))

    async def profile(self, node_id: int) -> Record:
        """A node as the registry shows it to everybody: without a private endpoint."""
        return _record_of(node_id, await self.ask(self.asked_by_us(Lookup(node_id=node_id))))

    async def record(self, node_id: int) -> Record:
        """Like :meth:`profile`, with all endpoints that we may know: for a tunnel."""
        found = await self.ask(self.asked_by_us(Lookup(node_id=node_id)))
        record = _record_of(node_id, found)
        is_complete = found.public and found.lan_addrs is not UNSET
        if is_complete or self.signer is None:
            return record
        request = Resolve(node_id=node_id, requester_id=self.node_id)
        try:
            resolved = await self.ask(self.signed(request))
        except PermissionDenied:
            return record
        return replace(
            record,
            endpoint="" if resolved.relay_only else resolved.real_addr,
            lan_addrs=_bounded(resolved.lan_addrs),
            relay_only=resolved.relay_only,
        )

    async def ban(self, node_id: int, *, admin_token: str) -> None:
        """Takes a node off the network, and has its key refused; for the operator."""
        await self.ask(BanNode(node_id=node_id, admin_token=admin_token))

    async def unban(self, node_id: int, *, admin_token: str) -> None:
        """Lets its key register again; for the operator."""
        await self.ask(UnbanNode(node_id=node_id, admin_token=admin_token))

    async def beacons(self) -> tuple[str, ...]:
        """Beacons that announced themselves, ``host:port`` each."""
        reply = await self.ask(BeaconList())
        return tuple(row.addr for row in reply.beacons[:MAX_BEACONS])


def _record_of(node_id: int, found: LookupReply) -> Record:
    try:
        key = values.decode_base64(found.public_key, values.KEY_LEN)
    except ValueError as error:
        raise ConnectionFailed(f"registry: unusable key of node {node_id}") from error
    return Record(
        node_id=node_id,
        public_key=key,
        public=found.public,
        hostname=found.hostname,
        endpoint="" if found.relay_only else found.real_addr or "",
        networks=frozenset(found.networks),
        last_seen=found.last_seen_unix or 0,
        lan_addrs=_bounded(found.lan_addrs or ()),
        relay_only=found.relay_only,
    )


def _bounded(addresses: Sequence[str]) -> tuple[str, ...]:
    fitting = (each for each in addresses if len(each) <= MAX_LAN_ADDRESS)
    return tuple(itertools.islice(fitting, MAX_LAN_ADDRESSES))
