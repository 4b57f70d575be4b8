"""Names of local IPs in the DNS, as ``1.0.4.10.in-addr.arpa`` (RFC 1035, 3.5; RFC 3596, 2.5).

No IO."""

from __future__ import annotations

import ipaddress
from typing import Final

import dns.name

__all__ = ["Reverse"]

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_V4: Final = dns.name.from_text("in-addr.arpa.")
_V6: Final = dns.name.from_text("ip6.arpa.")


class Reverse:
    """The reverse names of one subnet.

    The zone is the smallest that holds the subnet and ends at a label: names in it that are outside
    of the subnet are others'.

    Args:
        subnet: of local IPs.
    """

    def __init__(self, subnet: Subnet) -> None:
        self._subnet = subnet
        self._is_v4 = subnet.version == 4
        self._bits = 8 if self._is_v4 else 4
        self._parts = subnet.max_prefixlen // self._bits
        known = self._labels(subnet.network_address)[: subnet.prefixlen // self._bits]
        suffix = _V4 if self._is_v4 else _V6
        #: The zone's name.
        self.zone = dns.name.Name([label.encode() for label in reversed(known)]).concatenate(suffix)
        self._depth = self._parts - len(known)

    def _labels(self, ip: IP) -> list[str]:
        """The parts of an IP, the most significant first."""
        return str(ip).split(".") if self._is_v4 else list(ip.exploded.replace(":", ""))

    def has(self, name: dns.name.Name) -> bool:
        """Whether a name is in the zone, and not known to be outside of the subnet."""
        if not name.is_subdomain(self.zone):
            return False
        ip = self.ip_of(name)
        return ip is None or ip in self._subnet

    def is_inner(self, name: dns.name.Name) -> bool:
        """Whether a name in the zone is between the zone and the names of IPs (RFC 8020)."""
        parts = self._below(name)
        return parts is not None and len(parts) < self._depth

    def ip_of(self, name: dns.name.Name) -> IP | None:
        """The IP that a name in the zone stands for."""
        parts = self._below(name)
        if parts is None or len(parts) != self._depth:
            return None
        number = int(self._subnet.network_address) >> (self._depth * self._bits)
        for part in parts:
            number = number << self._bits | part
        return ipaddress.IPv4Address(number) if self._is_v4 else ipaddress.IPv6Address(number)

    def _below(self, name: dns.name.Name) -> list[int] | None:
        """What a name says below the zone, the most significant part first."""
        own = name.labels[: len(name.labels) - len(self.zone.labels)]
        base, longest = (10, 3) if self._is_v4 else (16, 1)
        parts = []
        for label in reversed(own):
            text = label.decode("ascii", "replace").lower()
            if not text.isascii() or not text.isalnum() or len(text) > longest:
                return None
            try:
                part = int(text, base)
            except ValueError:
                return None
            if part >> self._bits or text != (str(part) if self._is_v4 else f"{part:x}"):
                return None
            parts.append(part)
        return parts if len(parts) <= self._depth else None
