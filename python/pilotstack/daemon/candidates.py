"""Host candidates (RFC 8445): endpoints at which this host itself takes tunnels, and which of those
that a peer registered are worth trying. Reachability of a candidate is proven by the core alone.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from pilotstack import _interfaces, _resolving, _serving
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: How a candidate is known: it is on an interface, or a router maps it.
Kind = Literal["host", "mapped"]

#: Candidates of one node at most.
MAX_CANDIDATES: Final = 8
_V6: Final = 6
_V6_SUBNET: Final = 64


class Candidates:
    """The host candidates of one node.

    Args:
        bound: address and port of the tunnel's socket.
        tell: takes kinds and endpoints whenever they change.
        is_hidden: there are none: peers are to come through a beacon, or to the stated endpoint.
    """

    def __init__(
        self,
        bound: tuple[str, int],
        tell: Callable[[list[tuple[Kind, str]]], None],
        *,
        is_hidden: bool = False,
    ) -> None:
        self._host, self._port = bound
        self._tell = tell
        self._is_hidden = is_hidden
        self._mapped = ""
        #: On interfaces of this host, the most useful first.
        self.hosts: tuple[str, ...] = ()

    def look(self, targets: Iterable[str] = ()) -> bool:
        """Reads the addresses of this host, tells changes, and returns whether there are any.

        Args:
            targets: addresses whose routes count on systems that do not list interfaces.
        """
        found = self._found(targets)
        is_changed = found != self.hosts
        self.hosts = found
        if is_changed:
            self._announce()
        return is_changed

    def set_mapped(self, endpoint: str) -> None:
        """Takes the endpoint that a router maps to the tunnel's socket; empty if it maps none."""
        if endpoint != self._mapped and not self._is_hidden:
            self._mapped = endpoint
            self._announce()

    def _announce(self) -> None:
        rows: list[tuple[Kind, str]] = [("host", endpoint) for endpoint in self.hosts]
        if self._mapped:
            rows.append(("mapped", self._mapped))
        self._tell(rows)

    def _found(self, targets: Iterable[str]) -> tuple[str, ...]:
        if self._is_hidden:
            return ()
        bound = ipaddress.ip_address(self._host)
        if not bound.is_unspecified:
            is_usable = bound.is_loopback or _interfaces.is_reachable(self._host)
            return (_serving.join_address(self._host, self._port),) if is_usable else ()
        usable = _interfaces.host_addresses(targets=targets)
        return tuple(
            _serving.join_address(address, self._port)
            for address in usable
            if bound.version == _V6 or ":" not in address
        )[:MAX_CANDIDATES]


def may_send_to(bound: str, address: str) -> bool:
    """Whether a socket bound to an address can send to another: of its family, or of any if it is
    bound to ``::``, and with a route."""
    is_bound_to_v6, is_v6 = ":" in bound, ":" in address
    if is_v6 != is_bound_to_v6 and bound != "::":
        return False
    return _resolving.source_towards(address) is not None


def worth_trying(
    candidates: Iterable[str], *, endpoint: str, own: str, bound: str
) -> tuple[str, ...]:
    """The candidates of a peer that may lead to it from here.

    An address of a private network is tried only if the peer seems to be on our site, since every
    site has another host there: if both have the same public address, or it registered with an
    address of such a network itself.

    Args:
        candidates: what it registered, ``host:port`` each.
        endpoint: where the registry says it is; empty if it does not say.
        own: our public endpoint; empty if it is not known.
        bound: address of the tunnel's socket.
    """
    is_local = ipaddress.ip_address(bound).is_loopback
    shares_site = _shares_site(endpoint, own)
    found: list[str] = []
    for text in candidates:
        with suppress(InvalidArgument, ValueError):
            host, port = _serving.split_address(text)
            address = ipaddress.ip_address(_resolving.canonical(host))
            shown = _serving.join_address(str(address), port)
            is_usable = address.is_loopback if is_local else _interfaces.is_reachable(str(address))
            if (
                port
                and is_usable
                and (shares_site or not _interfaces.is_site_local(address))
                and not address.is_reserved
                and shown != endpoint
                and shown not in found
                and may_send_to(bound, str(address))
            ):
                found.append(shown)
    return tuple(found[:MAX_CANDIDATES])


def _shares_site(endpoint: str, own: str) -> bool:
    theirs, ours = _address_of(endpoint), _address_of(own)
    if theirs is None:
        return False
    if theirs == ours or _interfaces.is_site_local(theirs) or theirs.is_loopback:
        return True
    if isinstance(theirs, ipaddress.IPv6Address) and isinstance(ours, ipaddress.IPv6Address):
        return ours in ipaddress.ip_network((int(theirs), _V6_SUBNET), strict=False)
    return False


def _address_of(endpoint: str) -> _interfaces.IpAddress | None:
    with suppress(InvalidArgument, ValueError):
        host, _ = _serving.split_address(endpoint)
        return ipaddress.ip_address(_resolving.canonical(host))
    return None
