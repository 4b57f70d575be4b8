"""Finds the public endpoint of a node, where its datagrams come from, and keeps it up to date."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events, _resolving, _serving
from pilotstack.daemon.address_watch import AddressWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack._core import Core

log = _events.get_logger(__name__)

#: Seconds to wait for a beacon before registering without its answer. It is asked on meanwhile.
DISCOVERY: Final = 2.0
#: Seconds for the answer of one address of the beacon, which the core asks several times meanwhile;
#: seconds before a failed lookup of its name is repeated; and the maximum of both.
_ANSWER, _RESOLVE_AGAIN, _MOST = 2.0, 0.25, 15.0
#: Rounds before these intervals grow.
_FAST: Final = 4
#: Seconds between requests to a beacon that answers.
INTERVAL: Final = 25.0
#: Seconds for a name lookup.
_RESOLVING: Final = 5.0
#: Seconds between two checks of this host's addresses, however often they change.
_BETWEEN_LOOKS: Final = 0.5


def pause_after(failures: int, first: float) -> float:
    """Seconds of a round after ``failures`` failed ones."""
    return min(first * 2.0 ** max(0, failures - _FAST + 1), _MOST)


class PublicEndpoint:
    """Finds the endpoint of one node.

    Args:
        core: asks beacons.
        beacon: ``host:port``, or empty.
        fixed: the endpoint, if the operator knows it.
        registry: host of the registry. Without a beacon, the source address of datagrams to it is
            the endpoint.
        changed: called when the endpoint has changed, or may be reached in another way.
    """

    def __init__(
        self,
        core: Core,
        beacon: str,
        fixed: str,
        registry: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self._core = core
        if fixed:
            _serving.split_address(fixed)
        self._beacon = _serving.split_address(beacon) if beacon and not fixed else None
        self._fixed = fixed
        self._registry = registry
        self._changed = changed
        self._bound = core.local_addr()
        #: Empty until something is known.
        self.endpoint = fixed
        self._is_known = anyio.Event()
        self._answered = anyio.Event()
        self._again = anyio.Event()
        self._is_stale = False
        self._sources: tuple[str, ...] = ()

    async def find(self) -> str:
        """The endpoint to register at the start: a guess if the beacon has not answered."""
        if self._beacon is not None:
            with anyio.move_on_after(DISCOVERY):
                await self._is_known.wait()
        if not self.endpoint:
            self.endpoint = await self._local()
        await self._look()
        return self.endpoint

    def heard(self, endpoint: str) -> None:
        """Takes the endpoint that a beacon saw."""
        host, port = _serving.split_address(endpoint)
        endpoint = _serving.join_address(_resolving.canonical(host), port)
        self._answered.set()
        self._is_known.set()
        if self._beacon is not None:
            self._use(endpoint)

    def _use(self, endpoint: str) -> None:
        before, self.endpoint = self.endpoint, endpoint
        is_stale, self._is_stale = self._is_stale, False
        if is_stale or (before and before != endpoint):
            log.info("moved", endpoint=endpoint)
            self._changed()

    # The beacon

    @_serving.endless
    async def ask(self) -> None:
        """Asks the beacon at once, and regularly until cancelled."""
        if self._beacon is None:
            await anyio.sleep_forever()
            return
        failures = 0
        while True:
            self._answered = anyio.Event()
            if await self._ask_once(failures):
                if failures:
                    log.info("beacon_answers", endpoint=self.endpoint)
                failures = 0
                with anyio.move_on_after(INTERVAL):
                    await self._again.wait()
                self._again = anyio.Event()
                continue
            failures += 1
            if failures == 1:
                log.warning("beacon_unreachable", beacon=_serving.join_address(*self._beacon))
            if self._is_stale:
                self._use(await self._local())

    async def _ask_once(self, failures: int) -> bool:
        """One round of requests to one address of the beacon. Its name is looked up each time,
        because it may have moved."""
        addresses = await self._addresses()
        if addresses:
            assert self._beacon is not None, "only asked if there is one"
            address = addresses[failures % len(addresses)]
            self._core.set_beacons([_serving.join_address(address, self._beacon[1])])
        pause = pause_after(failures, _ANSWER if addresses else _RESOLVE_AGAIN)
        with anyio.move_on_after(pause):
            await self._answered.wait()
        return self._answered.is_set()

    async def _addresses(self) -> list[str]:
        if self._beacon is None:
            return []
        found = await _found(self._beacon[0])
        return [address for address in found if self._may_send_to(address)]

    def _may_send_to(self, address: str) -> bool:
        is_v6 = ":" in address
        is_bound_to_v6 = ":" in self._bound[0]
        if is_v6 and not is_bound_to_v6:
            return False
        return _resolving.source_towards(address) is not None

    # This host

    @_serving.endless
    async def watch(self) -> None:
        """Watches this host's addresses until cancelled."""
        with AddressWatch() as watch:
            while True:
                await watch.wait()
                before = self._sources
                await self._look()
                # Without a route there is nothing to do until the next change.
                if self._sources and self._sources != before:
                    await self._on_other_address()
                elif not self._sources:
                    self._sources = before
                await anyio.sleep(_BETWEEN_LOOKS)

    async def _look(self) -> None:
        """Notes the source addresses of datagrams to the registry and the beacon."""
        targets = [*await _found(self._registry()), *await self._addresses()]
        sources = (_resolving.source_towards(address) for address in targets)
        self._sources = tuple(sorted({source for source in sources if source}))

    async def _on_other_address(self) -> None:
        log.info("addresses_changed", sources=list(self._sources))
        self._core.on_moved()
        if self._beacon is None:
            if not self._fixed:
                self.endpoint = await self._local()
            self._changed()
            return
        self._is_stale = True
        self._again.set()

    async def _local(self) -> str:
        """Our endpoint as this host sees it; empty without a route."""
        host, port = self._bound
        if not ipaddress.ip_address(host).is_unspecified:
            return _serving.join_address(host, port)
        for address in await _found(self._registry()):
            if source := _resolving.source_towards(address):
                return _serving.join_address(source, port)
        return ""


async def _found(host: str) -> list[str]:
    with anyio.move_on_after(_RESOLVING):
        try:
            return await _resolving.resolve(host)
        except OSError as error:
            log.debug("not_resolved", host=host, error=str(error))
    return []
