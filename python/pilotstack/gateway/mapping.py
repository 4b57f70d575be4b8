"""Which local IP stands for which agent: state without IO.

An agent keeps its IP as long as it is mapped, and gets the same again later if that is still free.
Others get the lowest IP that no agent ever had, and only when there is none left the one that was
given up the longest ago, so that a program which remembers an IP does not reach another agent
(docs/reference/gateway.md). It must not touch interfaces or files.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

SUBNET: Final = "10.4.0.0/16"
_NO_IP: Final = "leave the IP out, and one is chosen"
#: Mappings at most.
MAX_MAPPINGS: Final = 4096
#: Agents without a mapping whose last IP is remembered.
MAX_RETIRED: Final = 4096
#: Bits of a subnet without addresses of its own for the network and for all (RFC 3021).
_POINT_TO_POINT: Final = 1


class Mapped(msgspec.Struct, frozen=True):
    """A local IP and the agent that it stands for."""

    local_ip: IP
    address: Address
    #: By which the agent was named, if it was.
    name: str = ""


class Row(msgspec.Struct, frozen=True):
    """A mapping as it is shown, and its ports: agent's port to local port, or why there is none."""

    local_ip: str
    pilot_addr: str
    name: str
    ports: dict[int, int]
    failed: dict[int, str]


class Mapping:
    """The mappings of a gateway.

    Args:
        subnet: that IPs are taken from, as ``10.4.0.0/16``.
        limit: of mappings.

    Raises:
        InvalidArgument: it is no subnet.
    """

    def __init__(self, subnet: str = SUBNET, limit: int = MAX_MAPPINGS) -> None:
        self.subnet = parse_subnet(subnet)
        self._limit = limit
        self._by_ip: dict[IP, Mapped] = {}
        self._by_address: dict[Address, Mapped] = {}
        #: Last IPs of agents without a mapping, the longest without one first.
        self._retired: OrderedDict[IP, Address] = OrderedDict()
        self._first, self._last = _hosts(self.subnet)
        self._next = self._first

    def __len__(self) -> int:
        return len(self._by_ip)

    def __iter__(self) -> Iterator[Mapped]:
        return iter(sorted(self._by_ip.values(), key=lambda row: int(row.local_ip)))

    def of_ip(self, ip: IP) -> Mapped | None:
        """The mapping of a local IP."""
        return self._by_ip.get(ip)

    def of_address(self, address: Address) -> Mapped | None:
        """The mapping of an agent."""
        return self._by_address.get(address)

    def map(self, address: Address, ip: IP | None = None, name: str = "") -> Mapped:
        """Maps an agent, to this IP if one is given. One that is mapped keeps its IP.

        Raises:
            AlreadyExists: the IP stands for another agent, or the agent has another IP.
            InvalidArgument: the IP is not one of the subnet's.
            Unavailable: there is no room.
        """
        if (known := self._by_address.get(address)) is not None:
            if ip is not None and ip != known.local_ip:
                raise AlreadyExists(
                    f"{address} is mapped to {known.local_ip}", hint="unmap it first"
                )
            return known
        if len(self) >= self._limit:
            raise Unavailable(
                f"{self._limit} agents are mapped, the most there may be",
                hint="unmap some: pilotctl gateway unmap AGENT",
            )
        chosen = self._check(ip) if ip is not None else self._choose(address)
        mapped = Mapped(chosen, address, name)
        self._retired.pop(chosen, None)
        self._by_ip[chosen] = self._by_address[address] = mapped
        return mapped

    def unmap(self, what: IP | Address) -> Mapped:
        """Ends a mapping.

        Raises:
            NotFound: there is none.
        """
        found = self.of_address(what) if isinstance(what, Address) else self.of_ip(what)
        if found is None:
            raise NotFound(f"no mapping for {what}", hint="see: pilotctl gateway list")
        del self._by_ip[found.local_ip], self._by_address[found.address]
        self._retire(found.local_ip, found.address)
        return found

    def retired(self) -> list[Mapped]:
        """Last IPs of agents without a mapping, the longest without one first."""
        return [Mapped(ip, address) for ip, address in self._retired.items()]

    def restore_retired(self, rows: Iterable[Mapped]) -> None:
        """Remembers last IPs of agents. Those that are of no use are left out."""
        for row in rows:
            if self._contains(row.local_ip) and row.local_ip not in self._by_ip:
                self._retire(row.local_ip, row.address)

    def _retire(self, ip: IP, address: Address) -> None:
        for other, owner in list(self._retired.items()):
            if owner == address:
                del self._retired[other]
        self._retired[ip] = address
        while len(self._retired) > MAX_RETIRED:
            self._retired.popitem(last=False)

    def _contains(self, ip: IP) -> bool:
        return ip in self.subnet and self._first <= int(ip) <= self._last

    def _check(self, ip: IP) -> IP:
        if ip not in self.subnet:
            raise InvalidArgument(f"IP {ip} not in subnet {self.subnet}", hint=_NO_IP)
        if not self._contains(ip):
            raise InvalidArgument(f"IP {ip} is no host of the subnet {self.subnet}", hint=_NO_IP)
        if ip in self._by_ip:
            raise AlreadyExists(
                f"IP {ip} already mapped", hint=f"it stands for {self._by_ip[ip].address}"
            )
        return ip

    def _choose(self, address: Address) -> IP:
        for ip, owner in self._retired.items():
            if owner == address:
                return ip
        while self._next <= self._last:
            ip = _ip(self.subnet, self._next)
            if ip not in self._by_ip and ip not in self._retired:
                return ip
            self._next += 1
        if self._retired:
            return next(iter(self._retired))
        for number in range(self._first, min(self._last, self._first + 2 * self._limit) + 1):
            if (ip := _ip(self.subnet, number)) not in self._by_ip:
                return ip
        raise Unavailable(
            f"subnet exhausted: all of {self.subnet} is mapped",
            hint="unmap agents, or start the gateway with a larger --subnet",
        )


def parse_subnet(text: str) -> Network:
    """A subnet, as ``10.4.0.0/16``.

    Raises:
        InvalidArgument: the text is anything else, or the subnet has no host.
    """
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(
            f"parse subnet: invalid CIDR address: {text[:100]}",
            hint="subnets look like 10.4.0.0/16",
        ) from None


def parse_ip(text: str) -> IP:
    """A local IP.

    Raises:
        InvalidArgument: the text is anything else.
    """
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"not an IP: {text[:100]!r}", hint=_NO_IP) from None


def _hosts(subnet: Network) -> tuple[int, int]:
    """The first and the last host, as numbers."""
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.max_prefixlen - subnet.prefixlen <= _POINT_TO_POINT:
        return first, last
    # The first IPv6 address is every router's (RFC 4291, 2.6.1); there is no broadcast.
    return first + 1, last - (subnet.version == 4)


def _ip(subnet: Network, number: int) -> IP:
    return ipaddress.IPv4Address(number) if subnet.version == 4 else ipaddress.IPv6Address(number)
