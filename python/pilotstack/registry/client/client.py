"""The registry's client: typed requests of one identity over a
:class:`~pilotstack.registry.client.connection.Connection`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pilotstack.errors import ConnectionFailed, PermissionDenied
from pilotstack.registry.client.connection import Connection
from pilotstack.registry.client.identity import IdentityRequests
from pilotstack.registry.client.networks import NetworkRequests
from pilotstack.registry.client.refusals import error_of
from pilotstack.registry.client.trust import TrustRequests
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.standing import STANDING
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.client.requests import Signer
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.protocol.tls import Trust


_MAX_NETWORK = 0xFFFF


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry gave us."""

    node_id: int
    address: Address
    hostname: str
    hostname_error: str


@dataclass(frozen=True, slots=True)
class Record:
    """A node as the registry shows it; ``endpoint`` is empty if it may not be told."""

    node_id: int
    public_key: bytes
    public: bool
    hostname: str
    endpoint: str
    networks: frozenset[int] = frozenset()
    #: Unix seconds of its last sign of life; 0 if the registry does not tell.
    last_seen: int = 0


class RegistryClient(TrustRequests, NetworkRequests, IdentityRequests):
    """Talks to a registry on behalf of one identity.

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
        tls: Trust | None = None,
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
            raise error_of(str(reply["error"]))
        # Which registry answered is the connection's business.
        return {name: value for name, value in reply.items() if name not in STANDING}

    async def register(
        self, listen_addr: str, *, hostname: str = "", owner: str = "", version: str = ""
    ) -> Registration:
        """Registers our key; a known key keeps its id."""
        key = self.key_text()
        reply = await self.request(
            {
                "type": "register",
                "public_key": key,
                "listen_addr": listen_addr,
                "hostname": hostname,
                "owner": owner,
                "version": version,
                "signature": self.sign(f"register:{listen_addr}:{key}"),
            }
        )
        self.node_id = values.number(reply, "node_id")
        return Registration(
            node_id=self.node_id,
            address=Address.parse(values.text(reply, "address")),
            hostname=values.text(reply, "hostname"),
            hostname_error=values.text(reply, "hostname_error"),
        )

    async def heartbeat(self) -> None:
        """Says that we are alive.

        Raises:
            NotFound: the registry does not know us, or another by our id.
        """
        reply = await self.about_us("heartbeat", public_key=self.key_text())
        if clock := values.number(reply, "time", 48):
            self.clock_skew = clock - int(time.time())

    async def deregister(self, *, keep_memberships: bool = False) -> Message:
        """Gives up the registration; the id stays bound to our key.

        Args:
            keep_memberships: we only stop for a while, and stay in our networks. Registries of
                other makes end memberships all the same.
        """
        members = {"keep_memberships": True} if keep_memberships else {}
        return await self.about_us("deregister", **members)

    async def set_hostname(self, hostname: str) -> Message:
        """Takes a name, or gives it up when empty."""
        return await self.about_us("set_hostname", hostname=hostname)

    async def set_visibility(self, *, public: bool) -> Message:
        """Lets everybody know our endpoint, or nobody without trust."""
        return await self.about_us("set_visibility", public=public)

    async def lookup(self, node_id: int) -> Message:
        """Everything about a node that we may know, but a private one's endpoint."""
        message: Message = {"type": "lookup", "node_id": node_id}
        return await self.request(self.asked_by_us(message, node_id))

    async def resolve_hostname(self, hostname: str) -> Message:
        """The id behind a name."""
        message: Message = {
            "type": "resolve_hostname",
            "hostname": hostname,
            "requester_id": self.node_id,
        }
        return await self.request(self.asked_by_us(message))

    async def profile(self, node_id: int) -> Record:
        """A node as the registry shows it to everybody: without a private endpoint."""
        found = await self.lookup(node_id)
        try:
            key = values.decode_base64(values.text(found, "public_key"), values.KEY_LEN)
        except ValueError as error:
            raise ConnectionFailed(f"registry: unusable key of node {node_id}") from error
        networks = found.get("networks")
        return Record(
            node_id=node_id,
            public_key=key,
            public=values.flag(found, "public"),
            hostname=values.text(found, "hostname"),
            endpoint=values.text(found, "real_addr"),
            networks=frozenset(
                number
                for number in (networks if isinstance(networks, list) else ())
                if type(number) is int and 0 <= number <= _MAX_NETWORK
            ),
            last_seen=values.number(found, "last_seen_unix", 63),
        )

    async def record(self, node_id: int) -> Record:
        """As :meth:`profile`, with the endpoint if we may know it: for a tunnel."""
        record = await self.profile(node_id)
        if record.endpoint or self.signer is None:
            return record
        try:
            resolved = await self.request(
                {
                    "type": "resolve",
                    "node_id": node_id,
                    "requester_id": self.node_id,
                    "signature": self.sign(f"resolve:{self.node_id}:{node_id}"),
                }
            )
        except PermissionDenied:
            return record
        return replace(record, endpoint=values.text(resolved, "real_addr"))
