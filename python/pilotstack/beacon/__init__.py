"""The beacon: tells nodes their public endpoint, coordinates hole punching, relays frames, and
tells nodes that something waits for them at the registry (``docs/reference/protocol/beacon.md``). A
thread of the core moves all datagrams; this package starts and stops that thread, tells it of the
other beacons, and shows what it counts."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack import _resolving, _serving
from pilotstack._core import BeaconServer
from pilotstack.errors import InternalError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv6Address
    from types import TracebackType

#: Ports at which nodes prove their address, unless the operator names some.
PROOF_PORTS: Final = 16
_MAX_PROOF_PORTS: Final = 64
_MAX_PORT: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class BeaconConfig:
    """Settings of a beacon."""

    #: Its number among the beacons of a registry; 0 if it is alone.
    beacon_id: int = 0
    #: Let this host be one source like others, and prove its addresses, too.
    limits_loopback: bool = False
    #: Ports at which nodes prove their address; 0 is any.
    proof_ports: tuple[int, ...] = (0,) * PROOF_PORTS
    #: Public addresses of this host, if its sockets have others.
    public_ips: tuple[IPv4Address | IPv6Address, ...] = ()


def parse_ports(text: str) -> tuple[int, ...]:
    """Ports of ``FIRST-LAST``; any, if the text is empty.

    Raises:
        InvalidArgument: the text has another form, or names too many.
    """
    if not text:
        return (0,) * PROOF_PORTS
    first, dash, last = text.partition("-")
    last = last if dash else first
    is_range = all(part.isascii() and part.isdecimal() for part in (first, last))
    if not is_range or not 0 < int(first) <= int(last) <= _MAX_PORT:
        raise InvalidArgument(f"not a range of ports: {text!r}", hint="it looks like 9101-9116")
    if int(last) - int(first) >= _MAX_PROOF_PORTS:
        raise InvalidArgument(f"more than {_MAX_PROOF_PORTS} ports: {text}")
    return tuple(range(int(first), int(last) + 1))


class Beacon:
    """A running beacon; a context manager that stops it.

    Args:
        listen: ``host:port`` or ``:port``; port 0 means any.
        config: everything else.

    Raises:
        OSError: the address cannot be bound.
        InvalidArgument: it is malformed.
    """

    def __init__(self, listen: str, config: BeaconConfig | None = None) -> None:
        config = config or BeaconConfig()
        host, port = _serving.split_address(listen, default_host=_resolving.any_host())
        try:
            self._server = BeaconServer(
                _serving.join_address(host, port),
                seed=os.urandom(32),
                id=config.beacon_id,
                trusts_loopback=not config.limits_loopback,
                probe_ports=list(config.proof_ports),
                public_ips=list(config.public_ips),
            )
        except OSError as error:
            raise _serving.bind_error("UDP", host, port, error) from error

    @property
    def address(self) -> str:
        """The address that is bound."""
        return _serving.join_address(*self._server.local_addr())

    def set_beacons(self, addresses: Iterable[str]) -> None:
        """Sets the other beacons, as IP addresses and ports: it tells them its nodes, and takes
        theirs.

        Raises:
            InternalError: the beacon has ended.
        """
        self._server.set_beacons(list(addresses))

    def notify(self, nodes: Iterable[int]) -> None:
        """Tells nodes that have asked this beacon lately that a message waits for them at the
        registry. The datagrams may be lost.

        Raises:
            InternalError: the beacon has ended.
        """
        self._server.notify(list(nodes))

    def take_unconfirmed(self, most: int) -> list[int]:
        """Nodes that have proven a key which the registry was not asked for yet.

        Raises:
            InternalError: the beacon has ended.
        """
        return self._server.take_unconfirmed(most)

    def set_key(self, node: int, key: bytes | None) -> None:
        """Tells which key a node has at the registry, ``None`` if that does not know the node. Who
        announced it with another key is forgotten.

        Raises:
            InternalError: the beacon has ended.
        """
        self._server.set_key(node, key)

    def report(self) -> Mapping[str, int]:
        """What it has counted, and what it holds, by name.

        Raises:
            InternalError: the beacon has ended.
        """
        return self._server.report()

    def problem(self) -> str:
        """Why it does not serve; empty if it does."""
        try:
            self.report()
        except InternalError as error:
            return str(error)
        return ""

    def __enter__(self) -> Beacon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()


async def public_ips(address: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """The IP addresses of a public ``host:port``, at most one of each family.

    Raises:
        OSError: the host cannot be looked up.
    """
    host, _ = _serving.split_address(address)
    found: dict[int, IPv4Address | IPv6Address] = {}
    for text in await _resolving.resolve(host):
        ip = ipaddress.ip_address(text)
        found.setdefault(ip.version, ip)
    return tuple(found.values())
