"""DNS of a gateway: its mappings for the bridge (docs/reference/protocol/services/dns.md).

The library that the bridge needs is imported only if DNS is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack import _serving
from pilotstack.services import dns_bridge

if TYPE_CHECKING:
    from collections import Counter, abc

    from pilotstack.client import Driver
    from pilotstack.gateway.gateway import Gateway
    from pilotstack.gateway.mapping import IP, Network
    from pilotstack.services.dns_bridge.server import DnsServer
    from pilotstack.types import Address


class _Mapped:
    """The mappings of a gateway, as the bridge wants them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def subnet(self) -> Network:
        """That local IPs are of."""
        return self._gateway.mapping.subnet

    async def local_ip(self, address: Address, name: str) -> IP | None:
        """The local IP of an agent, which is mapped if it was not."""
        return await self._gateway.local_ip(address, name)

    def agent_at(self, ip: IP) -> tuple[Address, str] | None:
        """The agent that a local IP stands for, and the name by which it was mapped."""
        mapped = self._gateway.mapping.of_ip(ip)
        return None if mapped is None else (mapped.address, mapped.name)

    def local_ports(self, address: Address) -> abc.Mapping[int, int]:
        """The ports of its local IP."""
        text = str(address)
        rows = (row.ports for row in self._gateway.rows() if row.pilot_addr == text)
        return next(rows, {})


def server(at: str, driver: Driver, gateway: Gateway, dropped: Counter[str]) -> DnsServer:
    """The server, to be entered.

    Args:
        at: where it listens, ``host:port``.
        driver: resolves names.
        gateway: maps agents.
        dropped: counts what is dropped.

    Raises:
        InvalidArgument: ``at`` is no address.
        Unavailable: the library is not installed.
    """
    host, port = _serving.split_address(at)
    dns_bridge.check_available()
    from pilotstack.services.dns_bridge.server import DnsServer
    from pilotstack.services.dns_bridge.zone import Bridge

    async def resolve(name: str) -> Address:
        return (await driver.resolve(name)).address

    return DnsServer(Bridge(resolve, _Mapped(gateway), dropped=dropped), host, port)
