"""Ports that our networks allow: what the registry said, told to the core, which enforces it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from pilotstack import _events
from pilotstack.daemon.state import BACKBONE
from pilotstack.errors import PilotError
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pilotstack.registry.client import RegistryClient

log = _events.get_logger(__name__)

#: Networks whose policies are asked for at once; those of others when they are needed.
MAX_AT_ONCE: Final = 64
#: Ports of a policy that are read; registries allow 100.
MAX_PORTS: Final = 4096
#: Seconds within which a policy is not asked for again.
FLOOR: Final = 0.4


class Enforcer(Protocol):
    """The part of the core that enforces policies."""

    def set_network_policy(self, network: int, ports: list[int]) -> None:
        """A network allows these ports, or every port if there are none."""


class Policies:
    """The policies of one node's networks.

    Args:
        registry: keeps them.
        core: enforces them.
    """

    def __init__(self, registry: RegistryClient, core: Enforcer) -> None:
        self._registry = registry
        self._core = core
        #: What each network allows, and when that was asked for.
        self._known: dict[int, tuple[float, tuple[int, ...]]] = {}

    async def learn(self, networks: Iterable[int]) -> None:
        """Asks for the policies of networks, and forgets those of others."""
        wanted = sorted(set(networks) - {BACKBONE})
        self._known = {network: row for network, row in self._known.items() if network in wanted}
        for network in wanted[:MAX_AT_ONCE]:
            await self.refresh(network)

    async def refresh(self, network: int) -> None:
        """Asks for the policy of a network, unless that was done a moment ago. If the registry does
        not answer, what is known holds."""
        at, ports = self._known.get(network, (-FLOOR, ()))
        if time.monotonic() - at >= FLOOR:
            try:
                ports = _ports(await self._registry.get_network_policy(network))
            except PilotError as error:
                # A registry of the first generation keeps none.
                log.debug("no_policy", network=network, error=str(error))
            self._known[network] = (time.monotonic(), ports)
        # The core has asked, so it is told even what it knows.
        self._core.set_network_policy(network, list(ports))

    async def changed(self, network: int) -> None:
        """Learns a policy that has just been changed, however old what is known is."""
        _, ports = self._known.get(network, (-FLOOR, ()))
        self._known[network] = (-FLOOR, ports)
        await self.refresh(network)

    async def allows(self, network: int, port: int) -> bool:
        """Whether members may use a port. Nothing is refused by what may be old."""
        if not self._is_allowed(network, port):
            await self.refresh(network)
        return self._is_allowed(network, port)

    async def union(self, networks: Iterable[int]) -> tuple[int, ...]:
        """The ports that are allowed in one of these networks; none if one allows every port."""
        found: set[int] = set()
        for network in sorted(networks)[:MAX_AT_ONCE]:
            await self.refresh(network)
            _, ports = self._known.get(network, (0.0, ()))
            if not ports:
                return ()
            found.update(ports)
        return tuple(sorted(found))

    def _is_allowed(self, network: int, port: int) -> bool:
        _, ports = self._known.get(network, (0.0, ()))
        return not ports or port in ports


def _ports(reply: Mapping[str, object]) -> tuple[int, ...]:
    """The ports of a reply; what is no port is left out."""
    rows = reply.get("allowed_ports")
    if not isinstance(rows, list | tuple):
        return ()
    numbers = (values.number({"port": row}, "port", 16) for row in rows[:MAX_PORTS])
    return tuple(sorted({port for port in numbers if port}))
