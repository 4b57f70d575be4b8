"""Who a peer is and where, for the core."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pilotstack import _resolving, _serving
from pilotstack.daemon.candidates import worth_trying
from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.records import Records


#: Lookups whose outcome is remembered.
MAX_OUTCOMES: Final = 1024


class Outcome(NamedTuple):
    """How a lookup ended: when, by :func:`time.perf_counter`, and why it failed if it did."""

    at: float
    error: Exception | None = None


class PeerTable(Protocol):
    """The part of the core that knows peers."""

    def on_record(
        self,
        node: int,
        identity_key: bytes,
        endpoint: str | None,
        *,
        candidates: list[str],
        is_relay_only: bool,
    ) -> None:
        """A peer has this key and, if that may be told, is there, or at one of the candidates;
        unless it takes relayed frames only."""

    def on_no_record(self, node: int, why: str = "") -> None:
        """A peer cannot be reached, unless there is a session with it; ``why`` is for who dials
        it."""


class PeerFinder:
    """Finds peers.

    Args:
        records: asks the registry.
        key_seen: is told each key that the registry names.
        core: is told what was found.
        own: our public endpoint, if it is known, and the address of the tunnel's socket.
        is_relay_only: we reach everybody through a beacon, because they would see where we are.
    """

    def __init__(
        self,
        records: Records,
        key_seen: Callable[[int, bytes], Awaitable[None]],
        core: PeerTable,
        own: Callable[[], tuple[str, str]],
        *,
        is_relay_only: bool = False,
    ) -> None:
        self._records = records
        self._key_seen = key_seen
        self._core = core
        self._own = own
        self._is_relay_only = is_relay_only
        self._outcomes: OrderedDict[int, Outcome] = OrderedDict()

    def outcome(self, node: int) -> Outcome | None:
        """How the last lookup of a node ended, if that is remembered."""
        return self._outcomes.get(node)

    async def find(self, node: int) -> None:
        """Learns from the registry who a node is and where, and tells the core.

        Raises:
            PilotError: the registry does not know it, or does not answer.
            OSError: the name of its host is unknown.
            ValueError: its endpoint makes no sense.
        """
        error: Exception | None = None
        try:
            await self._find(node)
        except (PilotError, OSError, ValueError) as reason:
            error = reason
            raise
        finally:
            self._outcomes[node] = Outcome(time.perf_counter(), error)
            self._outcomes.move_to_end(node)
            if len(self._outcomes) > MAX_OUTCOMES:
                self._outcomes.popitem(last=False)

    async def _find(self, node: int) -> None:
        record = await self._records.resolved(node)
        await self._key_seen(node, record.public_key)
        if not (record.public or record.endpoint or record.relay_only):
            # It is hidden from us and would not answer a dial through a beacon either.
            self._core.on_no_record(node, f"node {node} is private, and does not trust this one")
            return
        found = await _resolve(record.endpoint) if record.endpoint else []
        endpoint = found[0] if found else None
        own, bound = self._own()
        candidates = worth_trying(
            [*found, *record.lan_addrs], endpoint=endpoint or "", own=own, bound=bound
        )
        self._core.on_record(
            node,
            record.public_key,
            endpoint,
            candidates=list(candidates),
            is_relay_only=record.relay_only or self._is_relay_only,
        )

    async def find_again(self, node: int) -> None:
        """As :meth:`find`, and not from memory."""
        self._records.forget(node)
        await self.find(node)


async def _resolve(address: str) -> list[str]:
    """``host:port`` with the host as an IP address; those that there is a route to come first."""
    host, port = _serving.split_address(address)
    found = await _resolving.resolve(host)
    found = sorted(found, key=lambda one: _resolving.source_towards(one) is None)
    return [_serving.join_address(one, port) for one in found]
