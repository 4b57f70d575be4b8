"""Finds the endpoints of a node, where its datagrams come from and those of its own interfaces, and
keeps them up to date: asks beacons through the core, and watches this host's addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.abc

from pilotstack import _events, _resolving, _serving
from pilotstack.daemon import candidates
from pilotstack.daemon.address_watch import AddressWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.daemon.beacons import Beacons
    from pilotstack.daemon.candidates import Candidates

log = _events.get_logger(__name__)

#: Seconds to wait for a beacon before registering without its answer. It is asked on meanwhile.
DISCOVERY: Final = 2.0
#: Seconds for the answer of a beacon, which the core asks several times meanwhile; seconds before a
#: failed lookup of all names is repeated; and the maximum of both.
_ANSWER, _RESOLVE_AGAIN, _MOST = 2.0, 0.25, 15.0
#: Rounds before these intervals grow.
_FAST: Final = 4
#: Seconds between lookups of beacons' names, which may have moved.
INTERVAL: Final = 60.0
#: Seconds for the lookup of the registry's name.
_RESOLVING: Final = 5.0
#: Seconds between two looks at this host's addresses: after a change that concerns us, and at most,
#: however often other addresses change.
_SOON, _LATEST = 0.05, 0.8


class Core(Protocol):
    """The part of the core that knows where we are."""

    def local_addr(self) -> tuple[str, int]:
        """Address and port of the tunnel's socket."""

    def set_beacons(self, beacons: list[str]) -> None:
        """Asks these beacons, in the order of preference."""

    def on_moved(self) -> None:
        """An address of this host changed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a node tells the registry about where it is: ``host:port`` each."""

    endpoint: str
    lan_addrs: tuple[str, ...] = ()
    #: Peers are to come through a beacon.
    relay_only: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """Who is told of changes.

    Attributes:
        moved: the endpoint has changed, or connections from another address may hang.
        renewed: what the registry knows is outdated.
    """

    moved: Callable[[], None]
    renewed: Callable[[], None]


def pause_after(failures: int, first: float) -> float:
    """Seconds of a round after ``failures`` failed ones."""
    return min(first * 2.0 ** max(0, failures - _FAST + 1), _MOST)


class PublicEndpoint:
    """Finds the endpoints of one node.

    Args:
        core: asks beacons.
        beacons: which ones.
        own: host candidates.
        registry: host of the registry. Without a beacon, the source address of datagrams to it is
            the endpoint.
        changes: are told of changes.
        fixed: the endpoint, if the operator knows it.
        is_relay_only: peers are to come through a beacon.
    """

    def __init__(
        self,
        core: Core,
        beacons: Beacons,
        own: Candidates,
        registry: Callable[[], str],
        changes: Changes,
        *,
        fixed: str = "",
        is_relay_only: bool = False,
    ) -> None:
        self._core = core
        if fixed:
            _serving.split_address(fixed)
        self._beacons = beacons
        self._own = own
        self._fixed = fixed
        self._is_relay_only = is_relay_only
        self._registry = registry
        self._changes = changes
        self.bound = core.local_addr()
        #: Empty until something is known.
        self.endpoint = fixed
        #: The endpoint that a beacon saw last; empty until one has answered.
        self.seen = ""
        self._told: list[str] = []
        self._is_known = anyio.Event()
        self._answered = anyio.Event()
        self._again = anyio.Event()
        self._is_stale = False
        #: Addresses of the registry when its name was last resolved.
        self._registry_hosts: list[str] = []
        self._sources: tuple[str, ...] = ()

    @property
    def announced(self) -> Announced:
        """What to register. A node that is reached through beacons only hides its endpoint; older
        registries hand out what it names, so that is a beacon."""
        if self._is_relay_only:
            return Announced(next(iter(self._told), ""), relay_only=True)
        return Announced(self.endpoint, self._own.hosts)

    @property
    def beacons(self) -> list[str]:
        """Addresses of the beacons that are asked, in the order of preference."""
        return self._told

    async def find(self) -> str:
        """The endpoint to register at the start: a guess if no beacon has answered."""
        if self._beacons.addresses and not self._fixed:
            with anyio.move_on_after(DISCOVERY):
                await self._is_known.wait()
        if not self.endpoint:
            self.endpoint = await self._local()
        await self._find_registry()
        self._sources = self._sources_now()
        self._own.look(self._targets())
        return self.endpoint

    def heard(self, endpoint: str) -> None:
        """Takes the endpoint that a beacon saw."""
        host, port = _serving.split_address(endpoint)
        endpoint = _serving.join_address(_resolving.canonical(host), port)
        self._answered.set()
        self._is_known.set()
        self.seen = endpoint
        self._use(endpoint)

    def _use(self, endpoint: str) -> None:
        if self._fixed:
            endpoint = self._fixed
        before, self.endpoint = self.endpoint, endpoint
        is_stale, self._is_stale = self._is_stale, False
        if is_stale or (before and before != endpoint):
            log.info("moved", endpoint=endpoint)
            self._changes.moved()

    # Beacons

    def beacons_changed(self) -> None:
        """There are other beacons than before."""
        self._again.set()

    def tell_again(self) -> None:
        """This node has another id: beacons that know it by the one before cannot relay for it."""
        if self._told:
            self._core.set_beacons(self._told)

    @_serving.endless
    async def ask(self) -> None:
        """Has the core ask the beacons, from now on until cancelled. It asks them all; the list is
        handed on again when names lead elsewhere, this host has moved, or none answers."""
        if not self._beacons.addresses:
            await anyio.sleep_forever()
            return
        failures = 0
        while True:
            found = await self._beacons.endpoints(self._may_send_to)
            if found and (failures or found != self._told):
                self._tell(found)
            if await self._is_answered(failures, is_asked=bool(found)):
                if failures:
                    log.info("beacon_answers", endpoint=self.endpoint)
                failures = 0
                with anyio.move_on_after(INTERVAL):
                    await self._again.wait()
                self._again = anyio.Event()
                continue
            failures += 1
            if failures == 1:
                log.warning("beacon_unreachable", beacons=list(self._beacons.addresses))
            if self._is_stale:
                self._use(await self._local())

    def _tell(self, beacons: list[str]) -> None:
        self._answered = anyio.Event()
        if beacons != self._told:
            self._told = beacons
            # Other targets, which are no move.
            self._sources = self._sources_now()
        self._core.set_beacons(beacons)

    async def _is_answered(self, failures: int, *, is_asked: bool) -> bool:
        with anyio.move_on_after(pause_after(failures, _ANSWER if is_asked else _RESOLVE_AGAIN)):
            await self._answered.wait()
        return self._answered.is_set()

    def _may_send_to(self, address: str) -> bool:
        return candidates.may_send_to(self.bound[0], address)

    # This host

    @_serving.endless
    async def watch(self) -> None:
        """Watches this host's addresses until cancelled."""
        pause = _SOON
        with AddressWatch() as watch:
            async with anyio.create_task_group() as tasks:
                while True:
                    since = anyio.current_time()
                    was_suspended = await watch.wait()
                    has_changed = self._look(tasks, was_suspended=was_suspended)
                    is_calm = anyio.current_time() - since > _LATEST
                    pause = _SOON if has_changed or is_calm else min(2 * pause, _LATEST)
                    await anyio.sleep(pause)

    def _look(self, tasks: anyio.abc.TaskGroup, *, was_suspended: bool) -> bool:
        """Acts on what has changed. The core is told before anything is waited for: names cannot be
        resolved while this host changes networks."""
        before, sources = self._sources, self._sources_now()
        has_other = self._own.look(self._targets())
        # Without a route there is nothing to do until the next change.
        has_moved = bool(sources) and (sources != before or was_suspended)
        self._sources = sources or before
        if has_moved:
            log.info("addresses_changed", sources=list(sources), was_suspended=was_suspended)
            self._core.on_moved()
            if self._told:
                self._tell(self._told)
            tasks.start_soon(self._follow)
        elif has_other:
            log.info("candidates_changed", count=len(self._own.hosts))
            self._changes.renewed()
        return has_moved or has_other

    @_serving.contained
    async def _follow(self) -> None:
        """Tells everybody else that this host has moved."""
        if self._beacons.addresses:
            self._is_stale = True
            self._again.set()
        else:
            self.endpoint = self._fixed or await self._local()
            self._changes.moved()
        if await self._find_registry():
            self._sources = self._sources_now() or self._sources

    async def _find_registry(self) -> bool:
        """Resolves the registry's name; the last addresses stay if that fails."""
        found = await _found(self._registry())
        is_other = bool(found) and found != self._registry_hosts
        self._registry_hosts = found or self._registry_hosts
        return is_other

    def _targets(self) -> tuple[str, ...]:
        """Addresses of the registry and the beacons."""
        beacons = (_serving.split_address(each)[0] for each in self._told)
        return tuple(dict.fromkeys((*self._registry_hosts, *beacons)))

    def _sources_now(self) -> tuple[str, ...]:
        """Source addresses of datagrams to them."""
        sources = (_resolving.source_towards(address) for address in self._targets())
        return tuple(sorted({source for source in sources if source}))

    async def _local(self) -> str:
        """Our endpoint as this host sees it; empty without a route."""
        host, port = self.bound
        if not ipaddress.ip_address(host).is_unspecified:
            return _serving.join_address(host, port)
        await self._find_registry()
        for address in self._registry_hosts:
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
