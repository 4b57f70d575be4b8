"""Trust between nodes, from the side of agents (whitepaper section 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pilotstack.client import _frames as f
from pilotstack.client import _trust
from pilotstack.errors import InvalidArgument
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.types import PendingHandshake, TrustedPeer

#: Whom a call is about: a node id, an address or a hostname.
Peer = int | Address | str


def _host_of(peer: Peer) -> int | Address | str:
    """A peer as what it is.

    Raises:
        InvalidArgument: it is nobody.
    """
    if isinstance(peer, bool) or not isinstance(peer, int | Address | str):
        raise InvalidArgument(f"no peer: {peer!r}", hint="a node id, an address or a hostname")
    return parse_host(peer) if isinstance(peer, str) else peer


class TrustMethods(ABC):
    """The driver's calls about trust."""

    @abstractmethod
    async def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Asks the control plane something."""

    @abstractmethod
    async def _address(self, host: Address | str) -> Address: ...

    async def node_of(self, peer: Peer) -> int:
        """The node id of a peer.

        Raises:
            NotFound: nobody has the hostname.
        """
        host = _host_of(peer)
        return host if isinstance(host, int) else (await self._address(host)).node

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
        payload = _trust.of(_trust.REQUEST, node, justification)
        await self.call(f.HANDSHAKE, payload, timeout=_trust.PATIENCE)

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
        payload = _trust.wait(await self.node_of(peer), timeout)
        reply = await self.call(f.HANDSHAKE, payload, timeout=_trust.PATIENCE)
        return bool(reply.get("trusted"))


class BlockingTrustMethods(ABC):
    """The blocking driver's calls; see :class:`TrustMethods` for arguments and errors."""

    @abstractmethod
    def call(
        self, command: int, payload: bytes = b"", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Asks the control plane something."""

    @abstractmethod
    def _address(self, host: Address | str) -> Address: ...

    def node_of(self, peer: Peer) -> int:
        """The node id of a peer."""
        host = _host_of(peer)
        return host if isinstance(host, int) else self._address(host).node

    def handshake(self, peer: Peer, justification: str = "") -> None:
        """Asks a peer for trust."""
        payload = _trust.of(_trust.REQUEST, self.node_of(peer), justification)
        self.call(f.HANDSHAKE, payload, timeout=_trust.PATIENCE)

    def pending(self) -> tuple[PendingHandshake, ...]:
        """Requests that wait for an answer. Their texts come from strangers."""
        return _trust.pending(self.call(f.HANDSHAKE, _trust.PENDING))

    def approve(self, peer: Peer) -> None:
        """Grants a peer's request."""
        node = self.node_of(peer)
        _trust.found(self.call(f.HANDSHAKE, _trust.of(_trust.APPROVE, node)), node)

    def reject(self, peer: Peer, reason: str = "") -> None:
        """Refuses a peer's request, and tells it the reason."""
        node = self.node_of(peer)
        _trust.found(self.call(f.HANDSHAKE, _trust.of(_trust.REJECT, node, reason)), node)

    def trusted(self) -> tuple[TrustedPeer, ...]:
        """Whom this node trusts, and who trusts it; the newest first."""
        return _trust.trusted(self.call(f.HANDSHAKE, _trust.TRUSTED))

    def untrust(self, peer: Peer) -> None:
        """Ends the trust of both sides."""
        self.call(f.HANDSHAKE, _trust.of(_trust.REVOKE, self.node_of(peer)))

    def wait_for_trust(self, peer: Peer, timeout: float = _trust.MAX_WAIT) -> bool:
        """Whether there is trust within ``timeout`` seconds, at most 30."""
        payload = _trust.wait(self.node_of(peer), timeout)
        return bool(self.call(f.HANDSHAKE, payload, timeout=_trust.PATIENCE).get("trusted"))
