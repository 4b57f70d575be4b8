"""Local IPs as addresses of the loopback interface.

The kernel gets each for :data:`LEASE` seconds, which are renewed, so that those of a gateway that
was killed disappear by themselves. An address that was there before, without a time, is somebody
else's: it is used and not removed.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.to_thread

from pilotstack import _events
from pilotstack.errors import PermissionDenied, PilotError, Unavailable

if TYPE_CHECKING:
    from pilotstack.gateway.mapping import IP

log = _events.get_logger(__name__)

#: Seconds for which the kernel has an address, and after which that time begins anew.
LEASE: Final = 60
RENEWAL: Final = 20.0
_FOREVER: Final = 0xFFFF_FFFF
#: Scope of addresses that are valid on this host only, and the flag that skips the search for
#: duplicates of an IPv6 address (linux/rtnetlink.h, linux/if_addr.h).
_HOST: Final = 254
_NODAD: Final = 0x02
_LOOPBACK: Final = "lo"


class Aliases(Protocol):
    """Local IPs that are addresses of this host while they are mapped."""

    async def add(self, ip: IP) -> None:
        """Makes an IP an address of this host.

        Raises:
            PilotError: the system refuses.
        """

    async def remove(self, ip: IP) -> None:
        """Takes it back; a failure is logged."""

    async def renew(self) -> None:
        """Renews all, for ever."""


class NoAliases:
    """For IPs that are addresses of this host anyway, as those of 127.0.0.0/8 are on Linux."""

    async def add(self, ip: IP) -> None:
        """Does nothing."""

    async def remove(self, ip: IP) -> None:
        """Does nothing."""

    async def renew(self) -> None:
        """Does nothing."""
        await anyio.sleep_forever()


class LoopbackAliases:
    """Addresses of ``lo``, through netlink.

    Raises:
        Unavailable: pyroute2 is not installed, or this is not Linux.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("pyroute2") is None:
            raise Unavailable(
                "local IPs need the package pyroute2",
                hint="install pilotstack[gateway], or start the gateway with --unprivileged",
            )
        self._ours: set[IP] = set()

    async def add(self, ip: IP) -> None:
        """Makes an IP an address of ``lo``.

        Raises:
            PermissionDenied: this process may not.
            Unavailable: the system refuses otherwise.
        """
        if not await anyio.to_thread.run_sync(_add, ip):
            log.info("alias_exists", ip=str(ip))
            return
        self._ours.add(ip)

    async def remove(self, ip: IP) -> None:
        """Removes an address that was added."""
        if ip not in self._ours:
            return
        self._ours.discard(ip)
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove, ip)
        except PilotError as error:
            log.warning("alias_left", ip=str(ip), reason=str(error))

    async def renew(self) -> None:
        """Renews all in time, for ever."""
        while True:
            await anyio.sleep(RENEWAL)
            for ip in tuple(self._ours):
                try:
                    await anyio.to_thread.run_sync(_lease, ip)
                except PilotError as error:
                    log.error("alias_not_renewed", ip=str(ip), reason=str(error))


def _add(ip: IP) -> bool:
    """Whether the address is leased now; it is not if it was there for ever."""
    try:
        _lease(ip, "add")
    except FileExistsError:
        if _is_permanent(ip):
            return False
        # A gateway that was killed has left it.
        _lease(ip)
    return True


def _is_permanent(ip: IP) -> bool:
    import pyroute2

    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with pyroute2.IPRoute() as route:
        found = [
            row.get_attr("IFA_CACHEINFO") for row in route.get_addr(family=family, address=str(ip))
        ]
    return any(cache is not None and cache["ifa_valid"] == _FOREVER for cache in found)


def _lease(ip: IP, verb: str = "replace") -> None:
    import pyroute2

    try:
        with pyroute2.IPRoute() as route:
            route.addr(
                verb,
                index=route.link_lookup(ifname=_LOOPBACK)[0],
                address=str(ip),
                prefixlen=ip.max_prefixlen,
                scope=_HOST,
                preferred_lft=LEASE,
                valid_lft=LEASE,
                flags=_NODAD if ip.version == 6 else 0,
            )
    except pyroute2.NetlinkError as error:
        if error.code == errno.EEXIST:
            raise FileExistsError(error.code, "it is there") from error
        raise _refused(ip, error.code) from error


def _remove(ip: IP) -> None:
    import pyroute2

    try:
        with pyroute2.IPRoute() as route:
            index = route.link_lookup(ifname=_LOOPBACK)[0]
            route.addr("del", index=index, address=str(ip), prefixlen=ip.max_prefixlen)
    except pyroute2.NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise _refused(ip, error.code) from error


def _refused(ip: IP, number: int) -> PilotError:
    reason = os.strerror(number)
    if number in {errno.EPERM, errno.EACCES}:
        return PermissionDenied(
            f"{ip} cannot be made an address of this host: {reason}",
            hint="run the gateway as root, or with --unprivileged",
        )
    return Unavailable(
        f"{ip} cannot be made an address of this host: {reason}",
        hint="try another --subnet, or --unprivileged",
    )
