"""The client's requests about trust and handshakes."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client.refusals import is_no_trust, is_unknown_type
from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol.requests.trust import (
    CheckTrust,
    CheckTrustReply,
    PollHandshakes,
    ReportTrust,
    RequestHandshake,
    RespondHandshake,
    RevokeTrust,
)

#: Rows of an inbox that are read.
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """A node asks for our trust; ``timestamp`` in Unix seconds of the registry."""

    peer: int
    justification: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class RelayedResponse:
    """A node answered our request, or, with ``revoked``, ended a trust."""

    peer: int
    accept: bool
    timestamp: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Inbox:
    """What waited for us."""

    requests: tuple[RelayedRequest, ...]
    responses: tuple[RelayedResponse, ...]
    #: The registry holds polls until there is something.
    is_held: bool
    #: Invitations to networks that wait, if the registry tells.
    invites: int
    #: Networks and nodes that are no members any more; with network 0, nodes that were banned.
    removals: tuple[tuple[int, int], ...] = ()


class TrustRequests(Requests):
    """Requests about trust and handshakes, of a registered identity."""

    async def report_trust(self, peer: int) -> None:
        """Says that we trust a node."""
        await self.send(self.signed(ReportTrust(node_id=self.node_id, peer_id=peer)))

    async def revoke_trust(self, peer: int) -> None:
        """Ends the trust of both sides, if there is any."""
        try:
            await self.send(self.signed(RevokeTrust(node_id=self.node_id, peer_id=peer)))
        except ConnectionFailed as error:
            if not is_no_trust(error):
                raise

    async def check_trust(self, peer: int) -> bool | None:
        """Whether the registry knows trust of both sides, or a network that both are in; ``None``
        from a registry that cannot tell."""
        reply = await self._check(peer)
        return None if reply is None else reply.trusted

    async def claims_trust(self, peer: int) -> bool | None:
        """Whether the registry knows that we trust a peer, be it one-sided; ``None`` from a
        registry that cannot tell."""
        reply = await self._check(peer)
        return None if reply is None or reply.claimed is UNSET else reply.claimed

    async def grants_trust(self, peer: int) -> bool:
        """Whether the registry knows that a peer trusts us, be it one-sided."""
        reply = await self._check(peer)
        return reply is not None and reply.granted is True

    async def _check(self, peer: int) -> CheckTrustReply | None:
        request = CheckTrust(node_id=self.node_id, peer_id=peer, requester_id=self.node_id)
        try:
            return await self.ask(self.signed(request))
        except ConnectionFailed as error:
            if not is_unknown_type(error):
                raise
            return None

    async def request_handshake(self, peer: int, justification: str) -> None:
        """Puts a request into a node's inbox.

        Raises:
            AlreadyExists: another one of ours waits there.
            NotFound: there is no such node.
        """
        request = RequestHandshake(
            from_node_id=self.node_id, to_node_id=peer, justification=justification
        )
        await self.send(self.signed(request))

    async def respond_handshake(self, peer: int, *, accept: bool) -> None:
        """Answers a node's request."""
        request = RespondHandshake(node_id=self.node_id, peer_id=peer, accept=accept)
        await self.send(self.signed(request))

    async def poll_handshakes(self, *, wait: int | None = None) -> Inbox:
        """Takes what waits for us.

        Args:
            wait: seconds for which a registry of ours holds its reply until there is something;
                with 0 it answers at once and says that it would.
        """
        request = PollHandshakes(node_id=self.node_id, wait=UNSET if wait is None else wait)
        reply = await self.ask(self.signed(request), wait=wait or 0)
        return Inbox(
            tuple(
                RelayedRequest(row.from_node_id, row.justification, row.timestamp)
                for row in reply.requests[:MAX_ROWS]
                if row.from_node_id
            ),
            tuple(
                RelayedResponse(row.from_node_id, row.accept, row.timestamp, row.revoked)
                for row in reply.responses[:MAX_ROWS]
                if row.from_node_id
            ),
            reply.waited,
            reply.invites or 0,
            tuple((row.network_id, row.node_id) for row in (reply.removals or ())[:MAX_ROWS]),
        )
