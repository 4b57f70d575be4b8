"""Whose key a stranger has: questions that others make us ask, apart from our own.

They go over connections of their own, few at once, and what is learned is remembered apart, so
that however many there are, our own dials wait behind none of them and lose nothing that we know.
How many are asked per second is limited where they come from, in the core.
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

#: Connections to the registry for questions about strangers; each is opened when it is needed.
LANES = 4
#: Seconds for an answer, the wait for a connection included. The core forgets a question after 30.
DEADLINE = 15.0
#: Seconds without such questions after the registry refused one for want of allowance: what is left
#: of that is for our own.
QUIET = 5.0
#: Seconds after which another connection is tried: one from an address that this host has lost
#: answers nothing, and nothing tells so.
ATTEMPT = 3.0


class Lookups(Protocol):
    """The part of a registry's client that is needed here."""

    async def profile(self, node_id: int) -> Record:
        """A node as the registry shows it to everybody."""

    async def aclose(self) -> None:
        """Closes the connection."""


class StrangerKeys:
    """Answers the core's ``key_needed``.

    Args:
        clients: clients of the registry that nothing else uses.
        own: what we know from questions of our own, for when no registry answers.
        seen: is told each key that the registry names.
        answer: takes the key, or ``None`` if there is none.
    """

    def __init__(
        self,
        clients: Sequence[Lookups],
        own: Records,
        seen: Callable[[int, bytes], Awaitable[None]],
        answer: Callable[[int, bytes | None], None],
    ) -> None:
        self._clients = tuple(clients)
        self._idle = list(clients)
        self._lanes = anyio.CapacityLimiter(len(self._clients))
        self._known: OrderedDict[int, tuple[float, bytes]] = OrderedDict()
        self._quiet_until = 0.0
        self._own = own
        self._seen = seen
        self._answer = answer

    @_serving.contained
    async def name(self, node: int) -> None:
        """Asks the registry for a node's key and answers the core, whatever happens."""
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
            # A tunnel to somebody we know outlives an outage of the registry.
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
                raise Throttled("no questions about strangers for a while")
            client = self._idle.pop()
            try:
                with anyio.move_on_after(ATTEMPT):
                    return (await client.profile(node)).public_key
                await client.aclose()
                return (await client.profile(node)).public_key
            except Throttled:
                self._quiet_until = time.monotonic() + QUIET
                raise
            finally:
                self._idle.append(client)

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
