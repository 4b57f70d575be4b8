"""Addresses of this host at which others may reach it: host candidates (RFC 8445, 5.1.1.1).

Pure selection over what :mod:`pilotstack._netlink` reads; systems without rtnetlink are asked for
the source addresses of their routes.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from pilotstack import _netlink, _resolving

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pilotstack._netlink import Assigned, Link

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Targets of the default routes: addresses that no network has (RFC 5737, RFC 3849).
_ANYWHERE: Final = ("192.0.2.1", "2001:db8::1")
#: Addresses that are not usable, or not for new sessions.
_UNUSABLE: Final = _netlink.FAILED | _netlink.DEPRECATED | _netlink.TENTATIVE
#: Enabled and with a carrier.
_RUNNING: Final = _netlink.UP | _netlink.RUNNING
#: Kinds of interfaces that lead to containers and virtual machines of this host if a bridge has
#: no others.
_VIRTUAL: Final = frozenset({"veth", "tun", "tap", "vnet", "dummy", "macvtap"})
#: Addresses that are handed on at most.
MAX_ADDRESSES: Final = 8

#: Networks whose addresses mean another host on every site: RFC 1918, RFC 6598, RFC 4193.
_SITE_LOCAL: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


def host_addresses(*, targets: Iterable[str] = ()) -> tuple[str, ...]:
    """Addresses of this host at which others may reach it.

    Args:
        targets: addresses whose routes count where there is no rtnetlink.
    """
    routed = _sources((*_ANYWHERE, *targets))
    try:
        links, assigned = _netlink.dump()
    except OSError:
        return tuple(each for each in routed if is_reachable(each))[:MAX_ADDRESSES]
    return select(links, assigned, routed)


def mtu_towards(address: str) -> int:
    """MTU of the interface that datagrams to an IP address leave by; 0 if it is unknown."""
    source = _resolving.source_towards(address)
    try:
        links, assigned = _netlink.dump()
    except OSError:
        return 0
    leaving = {row.link for row in assigned if row.address == source}
    return max((link.mtu for link in links if link.index in leaving), default=0)


def select(
    links: Iterable[Link], assigned: Iterable[Assigned], routed: Sequence[str]
) -> tuple[str, ...]:
    """The addresses that others may reach.

    Args:
        links: all interfaces.
        assigned: all addresses.
        routed: source addresses of the default routes, which come first.
    """
    by_index = {link.index: link for link in links}
    rows = [row for row in assigned if row.link in by_index]
    ways_out = {row.link for row in rows if row.address in routed}
    internal = _internal_bridges(by_index.values()) - ways_out
    kept = [
        row
        for row in rows
        if by_index[row.link].flags & _RUNNING == _RUNNING
        and not row.flags & _UNUSABLE_OF[":" in row.address]
        and row.link not in internal
        and is_reachable(row.address)
    ]
    kept = [row for row in kept if not _is_replaced(row, kept)]
    # Stable: what the kernel lists first stays first among equals.
    kept.sort(key=lambda row: (row.address not in routed, row.link not in ways_out))
    return tuple(dict.fromkeys(row.address for row in kept))[:MAX_ADDRESSES]


#: The flags have a meaning for IPv6 only; of IPv4 addresses all are usable.
_UNUSABLE_OF: Final = {False: 0, True: _UNUSABLE}


def is_reachable(address: str) -> bool:
    """Whether another host may reach an address: neither loopback, link-local (which needs a zone
    that only this host knows), multicast nor unspecified."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return not (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    )


def is_site_local(address: IpAddress) -> bool:
    """Whether an address belongs to a network that every site may have."""
    return any(address in network for network in _SITE_LOCAL)


def _internal_bridges(links: Iterable[Link]) -> set[int]:
    """Bridges that connect only containers or virtual machines of this host."""
    links = list(links)
    bridges = {link.index for link in links if link.kind == "bridge"}
    outward = {link.master for link in links if link.master and link.kind not in _VIRTUAL}
    return bridges - outward


def _is_replaced(row: Assigned, rows: Iterable[Assigned]) -> bool:
    """Whether a temporary address of the same network (RFC 8981) stands for an IPv6 address."""
    if ":" not in row.address or row.flags & _netlink.TEMPORARY:
        return False
    network = _network(row)
    return any(
        other.link == row.link
        and ":" in other.address
        and other.flags & _netlink.TEMPORARY
        and _network(other) == network
        for other in rows
    )


def _network(row: Assigned) -> object:
    return ipaddress.ip_network((row.address, row.prefix), strict=False)


def _sources(targets: Iterable[str]) -> list[str]:
    found = (_resolving.source_towards(target) for target in targets)
    return list(dict.fromkeys(source for source in found if source))
