"""How a beacon finds the others: it announces itself to a registry every 30 seconds, and asks which
beacons there are. While no registry answers, the beacons that were listed last are kept for
:data:`PATIENCE`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from pilotstack import _events, _resolving, _serving
from pilotstack.errors import InvalidArgument, PilotError
from pilotstack.registry.protocol.requests.beacons import BeaconList, BeaconRegister

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pilotstack.beacon import Beacon
    from pilotstack.registry.client import RegistryClient

log = _events.get_logger(__name__)

#: Seconds between two announcements, the first ones of which follow sooner; a registry forgets a
#: beacon after 60.
INTERVAL: Final = 30.0
_FIRST: Final = 1.0
#: Seconds for which an unreachable registry's last list is used.
PATIENCE: Final = 3600.0
#: Beacons that are looked up in a list, at most.
_MAX_BEACONS: Final = 256


class Directory(Protocol):
    """Where beacons announce themselves."""

    async def exchange(self, beacon_id: int, address: str) -> Mapping[int, str]:
        """Announces a beacon, and returns the addresses of all by their numbers.

        Raises:
            PilotError: that failed, or was refused.
        """


class RegistryDirectory:
    """A registry, through a client.

    Args:
        client: the connection to it.
        admin_token: the operator's secret, if the registry has one.
    """

    def __init__(self, client: RegistryClient, admin_token: str = "") -> None:
        self._client = client
        self._token = admin_token

    async def exchange(self, beacon_id: int, address: str) -> Mapping[int, str]:
        """See :class:`Directory`."""
        await self._client.ask(
            BeaconRegister(beacon_id=beacon_id, addr=address, admin_token=self._token)
        )
        reply = await self._client.ask(BeaconList())
        return {row.id: row.addr for row in reply.beacons}


class Mesh:
    """Keeps a beacon informed of the others.

    Args:
        beacon: the beacon.
        directory: where it announces itself.
        beacon_id: its number.
        address: its public ``host:port``.
    """

    def __init__(
        self, beacon: Beacon, directory: Directory, *, beacon_id: int, address: str
    ) -> None:
        self._beacon = beacon
        self._directory = directory
        self._id = beacon_id
        self._address = address
        self._heard = time.monotonic()
        self._problem = ""
        self._known: list[str] = []

    @property
    def problem(self) -> str:
        """Why the last exchange failed; empty if it did not."""
        return self._problem

    async def run(self) -> None:
        """Announces and asks until cancelled."""
        pause = _FIRST
        while True:
            await self.turn()
            await anyio.sleep(pause)
            pause = min(2 * pause, INTERVAL)

    async def turn(self) -> None:
        """One exchange."""
        try:
            listed = await self._directory.exchange(self._id, self._address)
        except (PilotError, OSError) as error:
            if not self._problem:
                log.warning("beacon_not_registered", error=str(error))
            self._problem = str(error)
            if time.monotonic() - self._heard > PATIENCE:
                self._set([])
            return
        if self._problem:
            log.info("beacon_registered")
        self._problem = ""
        self._heard = time.monotonic()
        others = [address for number, address in listed.items() if number != self._id]
        found: set[str] = set()
        async with anyio.create_task_group() as tasks:
            for address in others[:_MAX_BEACONS]:
                tasks.start_soon(_look_up, address, found)
        found.discard(self._address)
        self._set(sorted(found))

    def _set(self, addresses: list[str]) -> None:
        if addresses != self._known:
            log.info("beacons", count=len(addresses))
            self._known = addresses
        self._beacon.set_beacons(addresses)


async def _look_up(address: str, found: set[str]) -> None:
    """Adds what a beacon's datagrams may come from."""
    try:
        host, port = _serving.split_address(address)
        found.update(_serving.join_address(ip, port) for ip in await _resolving.resolve(host))
    except (InvalidArgument, OSError) as error:
        log.debug("beacon_not_found", beacon=address, error=str(error))
