"""The registry client's requests about trust (sheet 3.6, 3.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message

#: Rows of an inbox that are read.
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """Somebody asks for our trust; ``timestamp`` in Unix seconds of the registry."""

    peer: int
    justification: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class RelayedResponse:
    """Somebody answered our request, or, with ``revoked``, ended a trust."""

    peer: int
    accept: bool
    timestamp: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Inbox:
    """What waited for us."""

    requests: tuple[RelayedRequest, ...]
    responses: tuple[RelayedResponse, ...]
    #: Whether the registry holds polls until there is something.
    is_held: bool
    #: Invitations to networks that wait, if the registry tells.
    invites: int


class TrustRequests(Requests):
    """Requests that need a registered identity; mixed into the client."""

    async def report_trust(self, peer: int) -> None:
        """Says that we trust a node."""
        await self._about_pair("report_trust", peer)

    async def revoke_trust(self, peer: int) -> None:
        """Ends the trust of both sides; nothing happens if there is none."""
        try:
            await self._about_pair("revoke_trust", peer)
        except ConnectionFailed as error:
            if "no trust pair" not in error.message:
                raise

    async def _about_pair(self, kind: str, peer: int) -> None:
        signature = self.sign(f"{kind}:{self.node_id}:{peer}")
        await self.request(
            {"type": kind, "node_id": self.node_id, "peer_id": peer, "signature": signature}
        )

    async def check_trust(self, peer: int) -> bool | None:
        """Whether the registry knows trust of both sides, or a network that both are in; ``None``
        from a registry that cannot tell."""
        reply = await self._check(peer)
        return None if reply is None else values.flag(reply, "trusted")

    async def claims_trust(self, peer: int) -> bool | None:
        """Whether the registry knows that we trust a peer, be it one-sided; ``None`` from a
        registry that cannot tell."""
        reply = await self._check(peer)
        if reply is None or "claimed" not in reply:
            return None
        return values.flag(reply, "claimed")

    async def grants_trust(self, peer: int) -> bool:
        """Whether the registry knows that a peer trusts us, be it one-sided."""
        reply = await self._check(peer)
        return reply is not None and values.flag(reply, "granted")

    async def _check(self, peer: int) -> Message | None:
        try:
            return await self.request(
                {
                    "type": "check_trust",
                    "node_id": self.node_id,
                    "peer_id": peer,
                    "requester_id": self.node_id,
                    "signature": self.sign(f"check_trust:{self.node_id}:{peer}"),
                }
            )
        except ConnectionFailed as error:
            if "request failed" in error.message or "unknown message type" in error.message:
                return None
            raise

    async def request_handshake(self, peer: int, justification: str) -> None:
        """Puts a request into a node's inbox.

        Raises:
            AlreadyExists: another one of ours waits there.
            NotFound: there is no such node.
        """
        await self.request(
            {
                "type": "request_handshake",
                "from_node_id": self.node_id,
                "to_node_id": peer,
                "justification": justification,
                "signature": self.sign(f"handshake:{self.node_id}:{peer}"),
            }
        )

    async def respond_handshake(self, peer: int, *, accept: bool) -> None:
        """Answers a node's request."""
        await self.request(
            {
                "type": "respond_handshake",
                "node_id": self.node_id,
                "peer_id": peer,
                "accept": accept,
                "signature": self.sign(f"respond:{self.node_id}:{peer}"),
            }
        )

    async def poll_handshakes(self, *, wait: int | None = None) -> Inbox:
        """Takes what waits for us.

        Args:
            wait: seconds for which a registry of ours holds its reply until there is something;
                with 0 it answers at once and says that it would.
        """
        message: Message = {
            "type": "poll_handshakes",
            "node_id": self.node_id,
            "signature": self.sign(f"poll_handshakes:{self.node_id}"),
        }
        if wait is not None:
            message["wait"] = wait
        reply = await self.request(message, wait=wait or 0)
        return Inbox(
            tuple(
                RelayedRequest(peer, values.text(row, "justification"), _time(row))
                for peer, row in _rows(reply, "requests")
            ),
            tuple(
                RelayedResponse(
                    peer, values.flag(row, "accept"), _time(row), values.flag(row, "revoked")
                )
                for peer, row in _rows(reply, "responses")
            ),
            values.flag(reply, "waited"),
            values.number(reply, "invites"),
        )


def _rows(reply: Message, name: str) -> list[tuple[int, Message]]:
    table = reply.get(name)
    rows = table[:MAX_ROWS] if isinstance(table, list) else []
    objects = [row for row in rows if isinstance(row, dict)]
    return [(peer, row) for row in objects if (peer := values.number(row, "from_node_id"))]


def _time(row: Message) -> int:
    return values.number(row, "timestamp", 63)
