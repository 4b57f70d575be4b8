"""Keeps the tunnel's UDP port mapped on the home router, as long as the daemon runs.

The core speaks PCP, NAT-PMP and UPnP; this decides whether a mapping is of use, when it is renewed,
and what is registered because of it. It never delays the start.
"""

from __future__ import annotations

import ipaddress
import socket as sockets
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import anyio

from pilotstack import _events, _resolving, _serving
from pilotstack._core import PortMapper
from pilotstack.daemon.gateway import default_gateway
from pilotstack.daemon.state import PortMapping
from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.daemon.config import DaemonConfig
    from pilotstack.daemon.state import NodeState

log = _events.get_logger(__name__)

#: Seconds of the lease that is asked for (RFC 6886, 3.3).
LEASE: Final = 7200
#: Seconds before a renewal at least, whatever lease the router grants.
_SOON: Final = 60.0
#: Seconds before another attempt after a failed one; doubled with each, up to the maximum.
_AGAIN, _MOST = 60.0, 3600.0
#: Seconds in which several changes of addresses cause one attempt.
_SETTLE: Final = 1.0
#: Seconds for the removal when the daemon stops.
FAREWELL: Final = 1.0
#: Networks that are not reached from the internet without a NAT (RFC 1918, RFC 6598).
_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)

_Result = TypeVar("_Result")


def why_off(config: DaemonConfig) -> str:
    """Why no router is asked with these settings; empty if one may be."""
    if not config.may_map_port:
        return "switched off by --no-port-mapping"
    if config.relay_only:
        return "peers come through a beacon only"
    return "the endpoint is given by --endpoint" if config.endpoint else ""


def pause_after(failures: int) -> float:
    """Seconds until the next attempt after so many failed ones."""
    return min(_AGAIN * 2.0 ** min(failures - 1, 16), _MOST)


class Mapper(Protocol):
    """One port on one router; every call blocks."""

    def map(self, seconds: int) -> tuple[str, str, int, int]:
        """Protocol, external host and port, and seconds of the lease, 0 if it does not end."""

    def remove(self) -> None:
        """Removes the mapping, if there is one."""


class PortMappings:
    """Maps the port of one node.

    Args:
        state: is told what is mapped.
        bound: address and port of the tunnel's socket.
        seen: our endpoint as beacons see it; empty until one has answered.
        changed: called when the mapped endpoint is another one than before.
        off: why no router is asked, if so.
        make: makes what asks the router, from its address, ours, and the port.
    """

    def __init__(
        self,
        state: NodeState,
        bound: tuple[str, int],
        seen: Callable[[], str],
        changed: Callable[[], None],
        *,
        off: str = "",
        make: Callable[[str, str, int], Mapper] | None = None,
    ) -> None:
        self._state = state
        self._bound = bound
        self._seen = seen
        self._changed = changed
        self._off = off
        self._make = make or _mapper
        self._mapper: Mapper | None = None
        #: Router and own address of the mapper.
        self._place: tuple[str, str] | None = None
        self._again = anyio.Event()

    def nudge(self) -> None:
        """Asks the router again soon: this host's address may be another one, or the router lost
        its state."""
        self._again.set()

    def endpoint(self, found: str) -> str:
        """The endpoint to register, if ``found`` is what is known without a mapping.

        A mapping lets everybody in, which the NAT may not do otherwise. But the router's address is
        believed only if beacons see it too: there may be another NAT between the router and them.
        """
        mapped, seen = self._state.port_mapping.external, self._seen()
        return mapped if mapped and seen and _host(mapped) == _host(seen) else found

    @_serving.endless
    async def keep(self) -> None:
        """Maps the port, and renews the mapping until cancelled."""
        failures = 0
        while True:
            place, why = await self._find_place()
            if place is None:
                # A mapping on a router that was left expires there.
                self._mapper = self._place = None
                self._note(PortMapping(error=why))
                pause = None
            else:
                pause = await self._ask(place)
                failures = failures + 1 if pause is None else 0
                pause = pause_after(failures) if pause is None else pause
            with anyio.move_on_after(pause):
                await self._again.wait()
                await anyio.sleep(_SETTLE)
            self._again = anyio.Event()

    async def _find_place(self) -> tuple[tuple[str, str] | None, str]:
        """The router and our address, or why no mapping is of use."""
        if self._off:
            return None, self._off
        if not self._seen():
            return None, "no beacon has answered, so nothing is known of a NAT"
        gateway = await default_gateway()
        if gateway is None:
            return None, "there is no default gateway for IPv4"
        local, seen = _resolving.source_towards(gateway), _host(self._seen())
        bound = ipaddress.ip_address(self._bound[0])
        if local is None or not (bound.is_unspecified or str(bound) == local):
            return None, "the tunnel's socket is not bound to the address that the router knows"
        if not _is_private(local):
            return None, "this host has a public address"
        if seen == local or ipaddress.ip_address(seen).is_loopback:
            return None, "there is no NAT between this host and the beacon"
        return (gateway, local), ""

    async def _ask(self, place: tuple[str, str]) -> float | None:
        """Makes or renews the mapping. Returns seconds until it is to be renewed, or ``None`` if
        there is none."""
        if self._mapper is None or self._place != place:
            self._place = place
            self._mapper = self._make(*place, self._bound[1])
        mapper = self._mapper
        try:
            protocol, host, port, seconds = await _in_thread(lambda: mapper.map(LEASE))
        except PilotError as error:
            self._note(PortMapping(error=error.message))
            return None
        external = _serving.join_address(host, port)
        expires = time.time() + seconds if seconds else 0.0
        self._note(PortMapping(protocol=protocol, external=external, expires=expires))
        return max((seconds or LEASE) / 2, _SOON)

    def _note(self, mapping: PortMapping) -> None:
        before, self._state.port_mapping = self._state.port_mapping, mapping
        if replace(before, expires=0.0) == replace(mapping, expires=0.0):
            return
        if mapping.external:
            log.info("port_mapped", protocol=mapping.protocol, endpoint=mapping.external)
        elif before.external:
            log.warning("port_mapping_lost", error=mapping.error)
        else:
            log.debug("port_not_mapped", why=mapping.error)
        if before.external != mapping.external:
            self._changed()

    async def aclose(self) -> None:
        """Removes the mapping. A router that does not answer in time forgets it at the end of the
        lease."""
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            with anyio.move_on_after(FAREWELL, shield=True):
                await _in_thread(mapper.remove)


def _mapper(gateway: str, local: str, port: int) -> Mapper:
    return PortMapper(gateway=gateway, local=local, port=port)


def _host(endpoint: str) -> str:
    return _serving.split_address(endpoint)[0]


def _is_private(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return any(found in network for network in _PRIVATE)


async def _in_thread(call: Callable[[], _Result]) -> _Result:
    """The result of a call that blocks. Cancellation takes effect at once, though the call goes on:
    its thread is a daemon thread, and the process may exit meanwhile."""
    results: list[_Result] = []
    errors: list[Exception] = []
    ours, theirs = sockets.socketpair()
    ours.setblocking(False)

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)
        # Closing wakes whoever waits.
        theirs.close()

    threading.Thread(target=run, name="pilot-port-mapping", daemon=True).start()
    try:
        await anyio.wait_readable(ours)
    finally:
        with suppress(OSError):
            ours.close()
    for error in errors:
        raise error
    return results[0]
