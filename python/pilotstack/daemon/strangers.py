"""Lookups of the keys of unknown peers that contact this node.

Anybody can cause these lookups, so they are kept apart from our own: they use connections and a
cache of their own, and few run at once. However many there are, our own dials do not wait for them:
only one a second goes over the connection of our own requests, which is open already. The core
limits their rate.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

import anyio

from pilotstack import _events, _serving
from pilotstack.daemon.records import MAX_RECORDS, OUTAGE
from pilotstack.errors import ConnectionFailed, PilotError, Throttled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pilotstack.daemon.records import Records
    from pilotstack.registry.client import Record

log = _events.get_logger(__name__)

#: Connections to the registry for these lookups; each is opened when it is needed.
LANES = 4
#: Seconds for a lookup, including the wait for a connection. The core gives up after 30.
DEADLINE = 15.0
#: Seconds without such lookups after the registry has throttled one: what is left of the allowance
#: is for our own requests.
QUIET = 5.0
#: Seconds after which a lookup is repeated on a new connection: one from an address that this host
#: has lost hangs without an error.
ATTEMPT = 3.0
#: Seconds between two of these lookups over the connection of our own requests. To open another
#: connection takes a round trip, for which the first byte of a new peer would wait.
ON_OURS = 1.0


class Lookups(Protocol):
    """The part of the registry's client that is used here."""

    async def profile(self, node_id: int) -> Record:
        """A node as the registry shows it to everybody."""

    async def aclose(self) -> None:
        """Closes the connection."""


class StrangerKeys:
    """Answers the core's ``key_needed``.

    Args:
        clients: clients of the registry that nothing else uses.
        own: records of our own requests, for outages of the registry.
        seen: called with each key that the registry names.
        answer: called with the key, or ``None`` if there is none.
        ours: asks over the connection of our own requests.
    """

    def __init__(
        self,
        clients: Sequence[Lookups],
        own: Records,
        seen: Callable[[int, bytes], Awaitable[None]],
        answer: Callable[[int, bytes | None], None],
        *,
        ours: Callable[[int], Awaitable[Record]] | None = None,
    ) -> None:
        self._clients = tuple(clients)
        self._idle = list(clients)
        self._lanes = anyio.CapacityLimiter(len(self._clients))
        self._known: OrderedDict[int, tuple[float, bytes]] = OrderedDict()
        self._quiet_until = 0.0
        self._ours = ours
        self._ours_free_at = 0.0
        self._own = own
        self._seen = seen
        self._answer = answer

    @_serving.contained
    async def name(self, node: int) -> None:
        """Looks up a node's key, and answers the core in any case."""
        key: bytes | None = None
        try:
            key = await self._find(node)
            await self._seen(node, key)
        except (PilotError, OSError, ValueError) as error:
            log.debug("no_key", node=node, error=str(error))
        finally:
            self._answer(node, key)

    async def _find(self, node: int) -> bytes:
        try:
            with anyio.fail_after(DEADLINE):
                key = await self._ask(node)
        except (ConnectionFailed, TimeoutError):
            # A tunnel to a known peer outlives an outage of the registry.
            known = self._remembered(node)
            if known is None:
                raise
            return known
        self._known[node] = time.monotonic(), key
        self._known.move_to_end(node)
        if len(self._known) > MAX_RECORDS:
            self._known.popitem(last=False)
        return key

    async def _ask(self, node: int) -> bytes:
        async with self._lanes:
            if time.monotonic() < self._quiet_until:
                raise Throttled("no lookups for unknown peers for a while")
            client = self._idle.pop()
            try:
                if (key := await self._ask_on_ours(node)) is not None:
                    return key
                with anyio.move_on_after(ATTEMPT):
                    return (await client.profile(node)).public_key
                await client.aclose()
                return (await client.profile(node)).public_key
            except Throttled:
                self._quiet_until = time.monotonic() + QUIET
                raise
            finally:
                self._idle.append(client)

    async def _ask_on_ours(self, node: int) -> bytes | None:
        """Asks over the connection of our own requests, if that may be and it answers in time."""
        now = time.monotonic()
        if self._ours is None or now < self._ours_free_at:
            return None
        self._ours_free_at = now + ON_OURS
        with anyio.move_on_after(ATTEMPT):
            return (await self._ours(node)).public_key
        return None

    def _remembered(self, node: int) -> bytes | None:
        own = self._own.remembered(node)
        if own is not None:
            return own.public_key
        at, key = self._known.get(node, (0.0, None))
        return key if time.monotonic() - at < OUTAGE else None

    async def aclose(self) -> None:
        """Closes the connections."""
        for client in self._clients:
            await client.aclose()
