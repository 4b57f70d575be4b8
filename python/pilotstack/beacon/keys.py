"""Asks a registry whose the keys are that nodes have proven to a beacon. Otherwise whoever came
first with a key of its own would have a node's id there
(``docs/reference/protocol/beacon.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events
from pilotstack.errors import NotFound, PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.beacon import Beacon
    from pilotstack.registry.client import RegistryClient

log = _events.get_logger(__name__)

#: Seconds between two looks for nodes to be asked about, and how many are asked about in between.
INTERVAL: Final = 1.0
AT_ONCE: Final = 64


def registered_key(client: RegistryClient) -> Callable[[int], Awaitable[bytes | None]]:
    """What a registry says of a node's key, through a client."""

    async def key_of(node: int) -> bytes | None:
        try:
            return (await client.profile(node)).public_key
        except NotFound:
            return None

    return key_of


class KeyCheck:
    """Answers a beacon's questions.

    Args:
        beacon: the beacon.
        key_of: names a node's key; ``None`` if the registry does not know the node. Raises
            :exc:`PilotError` or :exc:`OSError` if it does not answer.
    """

    def __init__(self, beacon: Beacon, key_of: Callable[[int], Awaitable[bytes | None]]) -> None:
        self._beacon = beacon
        self._key_of = key_of

    async def run(self) -> None:
        """Does so until cancelled."""
        while True:
            await self.turn()
            await anyio.sleep(INTERVAL)

    async def turn(self) -> None:
        """Asks about some nodes. Those that it gets no answer for are asked about when they
        announce themselves again."""
        for node in self._beacon.take_unconfirmed(AT_ONCE):
            try:
                key = await self._key_of(node)
            except (PilotError, OSError) as error:
                log.debug("key_not_checked", node=node, error=str(error))
                return
            self._beacon.set_key(node, key)
