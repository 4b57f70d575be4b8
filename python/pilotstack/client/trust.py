"""Trust between nodes, from the side of agents (whitepaper section 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pilotstack.client import _frames as f
from pilotstack.client import _trust
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.types import PendingHandshake, TrustedPeer

#: Whom a call is about: a node id, an address or a hostname.
Peer = int | Address | str


class TrustMethods(ABC):
    """The driver's calls about trust."""

    @abstractmethod
    async def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something."""

    @abstractmethod
    async def _address(self, host: Address | str) -> Address: ...

    async def node_of(self, peer: Peer) -> int:
        """The node id of a peer.

        Raises:
            NotFound: nobody has the hostname.
        """
        if isinstance(peer, int):
            return peer
        host = peer if isinstance(peer, Address) else parse_host(peer)
        return (await self._address(host)).node

    async def handshake(self, peer: Peer, justification: str = "") -> None:
        """Asks a peer for trust, directly or through the registry; returns when the request is
        there. Who asks a peer whose request waits here approves it.

        Args:
            justification: up to 1,024 octets that the peer's operator sees.

        Raises:
            NotFound: there is no such node.
            ConnectionFailed: neither the peer nor the registry takes the request.
            InvalidArgument: the justification is too long, or the peer is this node.
        """
        node = await self.node_of(peer)
        await self.call(f.HANDSHAKE, _trust.of(_trust.REQUEST, node, justification))

    async def pending(self) -> tuple[PendingHandshake, ...]:
        """Requests that wait for an answer. Their texts come from strangers."""
        return _trust.pending(await self.call(f.HANDSHAKE, _trust.PENDING))

    async def approve(self, peer: Peer) -> None:
        """Grants a peer's request.

        Raises:
            NotFound: none waits, and there is no trust.
        """
        node = await self.node_of(peer)
        _trust.found(await self.call(f.HANDSHAKE, _trust.of(_trust.APPROVE, node)), node)

    async def reject(self, peer: Peer, reason: str = "") -> None:
        """Refuses a peer's request, and tells it the reason.

        Raises:
            NotFound: none waits.
        """
        node = await self.node_of(peer)
        _trust.found(await self.call(f.HANDSHAKE, _trust.of(_trust.REJECT, node, reason)), node)

    async def trusted(self) -> tuple[TrustedPeer, ...]:
        """Whom this node trusts, and who trusts it; the newest first."""
        return _trust.trusted(await self.call(f.HANDSHAKE, _trust.TRUSTED))

    async def untrust(self, peer: Peer) -> None:
        """Ends the trust of both sides. The peer's streams are reset when this returns.

        Raises:
            NotFound: it was not trusted.
        """
        await self.call(f.HANDSHAKE, _trust.of(_trust.REVOKE, await self.node_of(peer)))

    async def wait_for_trust(self, peer: Peer, timeout: float = _trust.MAX_WAIT) -> bool:
        """Whether there is trust within ``timeout`` seconds, at most 30."""
        reply = await self.call(f.HANDSHAKE, _trust.wait(await self.node_of(peer), timeout))
        return bool(reply.get("trusted"))
