"""Verbs about trust: requests, answers to them, and their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack.ipc import answers as a
from pilotstack.ipc import requests as r
from pilotstack.registry.protocol.values import encode_base64

if TYPE_CHECKING:
    from pilotstack.daemon.verbs.table import Table
    from pilotstack.trust.inbox import InboxReader
    from pilotstack.trust.service import TrustService

#: Rows in an answer; a row has up to 180 bytes, a frame 2**20.
MAX_ROWS: Final = 5000


class TrustVerbs:
    """Answers drivers about trust.

    Args:
        trust: whom this node trusts.
        inbox: what the registry relays, which is looked at before an answer.
    """

    def __init__(self, trust: TrustService, inbox: InboxReader) -> None:
        self._trust = trust
        self._inbox = inbox

    def add_to(self, table: Table) -> None:
        """Lets these verbs answer."""
        table.add(r.RequestTrust, self.request)
        table.add(r.ApproveTrust, self.approve)
        table.add(r.RejectTrust, self.reject)
        table.add(r.ListPending, self.pending)
        table.add(r.ListTrusted, self.trusted)
        table.add(r.RevokeTrust, self.revoke)
        table.add(r.AwaitTrust, self.wait)

    async def request(self, request: r.RequestTrust) -> a.HandshakeStatus:
        """Asks a node for trust."""
        is_sent = await self._trust.request(request.node_id, request.text)
        return a.HandshakeStatus(request.node_id, "sent" if is_sent else "in_flight", UNSET)

    async def approve(self, request: r.ApproveTrust) -> a.HandshakeStatus:
        """Grants a request."""
        await self._inbox.refresh()
        is_trusted = await self._trust.approve(request.node_id)
        # Existing drivers are told the same if nothing waited; ours look at the last member.
        return a.HandshakeStatus(request.node_id, "approved", is_trusted)

    async def reject(self, request: r.RejectTrust) -> a.HandshakeStatus:
        """Refuses a request."""
        await self._inbox.refresh()
        is_found = await self._trust.reject(request.node_id, request.text)
        return a.HandshakeStatus(request.node_id, "rejected", is_found)

    async def pending(self, request: r.ListPending) -> a.PendingHandshakes:
        """Requests that wait for an answer."""
        del request
        await self._inbox.refresh()
        return a.PendingHandshakes(
            tuple(
                a.PendingHandshake(
                    row.node_id,
                    encode_base64(row.public_key),
                    row.justification,
                    row.received_at,
                )
                for row in self._trust.trust.rows.pending.values()
            )
        )

    async def trusted(self, request: r.ListTrusted) -> a.TrustedPeers:
        """Whom this node trusts, the newest first."""
        del request
        await self._inbox.refresh()
        rows = self._trust.trust.rows.trusted.values()
        newest_first = sorted(rows, key=lambda row: row.approved_at, reverse=True)
        shown = tuple(
            a.TrustedPeer(
                row.node_id,
                encode_base64(row.public_key),
                row.approved_at,
                row.mutual,
                row.network,
            )
            for row in newest_first[:MAX_ROWS]
        )
        return a.TrustedPeers(shown, len(newest_first) > MAX_ROWS)

    async def revoke(self, request: r.RevokeTrust) -> a.HandshakeStatus:
        """Ends the trust of both sides."""
        await self._trust.revoke(request.node_id)
        return a.HandshakeStatus(request.node_id, "revoked", UNSET)

    async def wait(self, request: r.AwaitTrust) -> a.TrustAwaited:
        """Waits until there is trust, for half a minute at most."""
        seconds = min(request.timeout / 1000, r.MAX_WAIT)
        return a.TrustAwaited(request.node_id, await self._trust.wait(request.node_id, seconds))
