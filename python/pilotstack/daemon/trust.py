"""The handshake verbs of the daemon's socket (IPC sheet 1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotstack.errors import InvalidArgument, Unavailable
from pilotstack.registry.protocol.values import encode_base64

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.supervisor import Daemon

REQUEST = 0x01
APPROVE = 0x02
REJECT = 0x03
PENDING = 0x04
TRUSTED = 0x05
REVOKE = 0x06
WAIT = 0x07

#: Milliseconds of the longest wait.
MAX_WAIT = 30_000
#: Rows in an answer; a row has up to 180 octets, a frame 2**20.
MAX_ROWS = 5000
_U32 = 4


class TrustVerbs:
    """Answers one daemon's drivers about trust."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._verbs: dict[int, Callable[[bytes], Awaitable[dict[str, Any]]]] = {
            REQUEST: self._request,
            APPROVE: self._approve,
            REJECT: self._reject,
            PENDING: self._pending,
            TRUSTED: self._trusted,
            REVOKE: self._revoke,
            WAIT: self._wait,
        }

    async def answer(self, payload: bytes) -> dict[str, Any]:
        """The reply to a sub-command and its arguments.

        Raises:
            InvalidArgument: the payload is cut off.
            PilotError: the request is refused.
        """
        if not payload:
            raise InvalidArgument("handshake: missing sub-command")
        verb = self._verbs.get(payload[0])
        if verb is None:
            raise Unavailable(f"handshake: unknown sub-command 0x{payload[0]:02X}")
        return await verb(payload[1:])

    async def _request(self, payload: bytes) -> dict[str, Any]:
        node = _node(payload, "request")
        is_sent = await self._daemon.trust.request(node, _text(payload))
        return {"node_id": node, "status": "sent" if is_sent else "in_flight"}

    async def _approve(self, payload: bytes) -> dict[str, Any]:
        node = _node(payload, "approve")
        await self._daemon.inbox.refresh()
        is_trusted = await self._daemon.trust.approve(node)
        # Existing drivers are told the same if nothing waited; ours look at the last member.
        return {"node_id": node, "status": "approved", "found": is_trusted}

    async def _reject(self, payload: bytes) -> dict[str, Any]:
        node = _node(payload, "reject")
        await self._daemon.inbox.refresh()
        is_found = await self._daemon.trust.reject(node, _text(payload))
        return {"node_id": node, "status": "rejected", "found": is_found}

    async def _pending(self, payload: bytes) -> dict[str, Any]:
        del payload
        await self._daemon.inbox.refresh()
        rows = self._daemon.trust.trust.rows.pending.values()
        return {
            "pending": [
                {
                    "node_id": row.node_id,
                    "public_key": encode_base64(row.public_key),
                    "justification": row.justification,
                    "received_at": row.received_at,
                }
                for row in rows
            ]
        }

    async def _trusted(self, payload: bytes) -> dict[str, Any]:
        del payload
        await self._daemon.inbox.refresh()
        rows = self._daemon.trust.trust.rows.trusted.values()
        newest_first = sorted(rows, key=lambda row: row.approved_at, reverse=True)
        shown: dict[str, Any] = {
            "trusted": [
                {
                    "node_id": row.node_id,
                    "public_key": encode_base64(row.public_key),
                    "approved_at": row.approved_at,
                    "mutual": row.mutual,
                    "network": row.network,
                }
                for row in newest_first[:MAX_ROWS]
            ]
        }
        return shown | ({"truncated": True} if len(newest_first) > MAX_ROWS else {})

    async def _revoke(self, payload: bytes) -> dict[str, Any]:
        node = _node(payload, "revoke")
        await self._daemon.trust.revoke(node)
        return {"node_id": node, "status": "revoked"}

    async def _wait(self, payload: bytes) -> dict[str, Any]:
        node = _node(payload, "wait")
        if len(payload) < 2 * _U32:
            raise InvalidArgument("handshake wait: missing timeout")
        timeout = min(int.from_bytes(payload[_U32 : 2 * _U32]), MAX_WAIT)
        return {"node_id": node, "trusted": await self._daemon.trust.wait(node, timeout / 1000)}


def _node(payload: bytes, verb: str) -> int:
    if len(payload) < _U32:
        raise InvalidArgument(f"handshake {verb}: missing node_id")
    return int.from_bytes(payload[:_U32])


def _text(payload: bytes) -> str:
    return payload[_U32:].decode(errors="replace")
