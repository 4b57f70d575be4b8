"""Who a peer is and where, for the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pilotstack import _resolving, _serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.records import Records


class PeerTable(Protocol):
    """The part of the core that knows peers."""

    def on_record(self, node: int, identity_key: bytes, endpoint: str | None) -> None:
        """A peer has this key and, if that may be told, is there."""


class PeerFinder:
    """Finds peers.

    Args:
        records: asks the registry.
        key_seen: is told each key that the registry names.
        core: is told what was found.
    """

    def __init__(
        self,
        records: Records,
        key_seen: Callable[[int, bytes], Awaitable[None]],
        core: PeerTable,
    ) -> None:
        self._records = records
        self._key_seen = key_seen
        self._core = core

    async def find(self, node: int) -> None:
        """Learns from the registry who a node is and where, and tells the core.

        Raises:
            PilotError: the registry does not know it, or does not answer.
            OSError: the name of its host is unknown.
            ValueError: its endpoint makes no sense.
        """
        record = await self._records.resolved(node)
        await self._key_seen(node, record.public_key)
        endpoint = await _resolve(record.endpoint) if record.endpoint else None
        self._core.on_record(node, record.public_key, endpoint)

    async def find_again(self, node: int) -> None:
        """As :meth:`find`, and not from memory."""
        self._records.forget(node)
        await self.find(node)


async def _resolve(address: str) -> str:
    """``host:port`` with the host as an IP address, one that there is a route to if possible."""
    host, port = _serving.split_address(address)
    found = await _resolving.resolve(host)
    routed = (one for one in found if _resolving.source_towards(one))
    return _serving.join_address(next(routed, found[0]), port)
