"""NAT boxes and firewalls as nftables rules, in the terms of RFC 4787.

Address-and-port-dependent filtering is what the kernel's connection tracking does: only the answer
to a packet passes. Wider filtering is made of two tables that every departing packet refreshes:
which inner endpoint an outer port stands for, and whom that port has contacted.

Datagrams that no table knows are dropped before they become a tracked connection. Otherwise one
that arrives too early would occupy the outer port towards its sender, and the kernel would map the
answer to another port: a behaviour that no home router shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pilotstack.testing.internet.hosts import Host

#: The names of devices on every router.
OUTSIDE, INSIDE = "up0", "lan0"
#: Outer ports where they are not preserved, and how many there are.
_FIRST_PORT, _PORTS = 20_000, 16_384
#: Seconds for which a binding lives unless told otherwise (RFC 4787, REQ-5, asks for 120).
_LIFETIME = 120


class Behaviour(Enum):
    """What a mapping, or a filter, depends on."""

    ENDPOINT_INDEPENDENT = auto()
    ADDRESS_DEPENDENT = auto()
    ADDRESS_AND_PORT_DEPENDENT = auto()

    @property
    def text(self) -> str:
        """As RFC 4787 writes it."""
        return self.name.lower().replace("_", "-")


class Allocation(Enum):
    """How a mapping gets its outer port."""

    PRESERVING = auto()
    SEQUENTIAL = auto()
    RANDOM = auto()

    @property
    def text(self) -> str:
        """A word."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Nat:
    """A NAT's behaviour.

    Args:
        lifetime: seconds after which an unused binding is forgotten.
        has_hairpin: inner hosts reach each other by their outer endpoints.
    """

    mapping: Behaviour
    filtering: Behaviour
    allocation: Allocation
    lifetime: int = _LIFETIME
    has_hairpin: bool = False

    def living(self, seconds: int) -> Nat:
        """The same, with bindings of another lifetime."""
        return replace(self, lifetime=seconds)

    def hairpinning(self) -> Nat:
        """The same, with hairpinning."""
        return replace(self, has_hairpin=True)

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"{self.mapping.text} mapping, {self.filtering.text} filtering, "
            f"{self.allocation.text} ports"
        )


_ENDPOINT, _ADDRESS, _PORT = Behaviour
#: NAT kinds by their usual names.
KINDS = {
    "full-cone": Nat(_ENDPOINT, _ENDPOINT, Allocation.PRESERVING),
    "restricted": Nat(_ENDPOINT, _ADDRESS, Allocation.PRESERVING),
    "port-restricted": Nat(_ENDPOINT, _PORT, Allocation.PRESERVING),
    "remapping": Nat(_ENDPOINT, _PORT, Allocation.RANDOM),
    "address-mapping": Nat(_ADDRESS, _PORT, Allocation.RANDOM),
    "sequential": Nat(_PORT, _PORT, Allocation.SEQUENTIAL),
    "symmetric": Nat(_PORT, _PORT, Allocation.RANDOM),
}


def set_up(router: Host, nat: Nat | None) -> None:
    """Makes a router a NAT for IPv4 and a stateful firewall for both families.

    Args:
        nat: the behaviour; without one it is a firewall only.
    """
    router.nft(_FORWARDING + (_translation(nat, router.ipv4) if nat else ""))
    remember(router, nat.lifetime if nat else _LIFETIME)


def shield(host: Host) -> None:
    """Puts a stateful firewall in front of a host: only answers come in."""
    host.nft(_SHIELD)
    remember(host, _LIFETIME)


def remember(host: Host, seconds: int) -> None:
    """Sets how long connection tracking remembers a UDP flow without packets."""
    host.set(
        net__netfilter__nf_conntrack_udp_timeout=seconds,
        net__netfilter__nf_conntrack_udp_timeout_stream=seconds,
    )


def reboot(router: Host, nat: Nat | None) -> None:
    """Forgets every binding, as a NAT that lost power."""
    set_up(router, nat)
    forget_flows(router)


def forget_flows(router: Host) -> None:
    """Forgets which flows were mapped to what."""
    router.run("conntrack", "--flush")


_REPLACED = "table {0} {{}}\ndelete table {0}\n"
_SHIELD = """
table inet shield {
    chain input {
        type filter hook input priority filter; policy drop
        iifname lo accept
        meta l4proto icmpv6 accept
        ct state established,related accept
    }
}
"""
_FORWARDING = f"""
{_REPLACED.format("inet firewall")}
table inet firewall {{
    chain forward {{
        type filter hook forward priority filter; policy accept
        iifname {OUTSIDE} meta l4proto icmpv6 accept
        iifname {OUTSIDE} ct state established,related accept
        iifname {OUTSIDE} ct status dnat accept
        iifname {OUTSIDE} drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept
        iifname {OUTSIDE} meta l4proto icmpv6 accept
        iifname {OUTSIDE} ct state established,related accept
        iifname {OUTSIDE} drop
        ip daddr 224.0.0.0/3 accept
        fib daddr type local meta l4proto udp iifname {INSIDE} udp dport != {{ 1900, 5351 }} drop
    }}
}}
"""


def _translation(nat: Nat, outer: str) -> str:
    """The table of a NAT whose outer address is this."""
    admits = {
        Behaviour.ENDPOINT_INDEPENDENT: "",
        Behaviour.ADDRESS_DEPENDENT: "ip saddr . udp dport @contacted",
    }.get(nat.filtering)
    inbound = hairpin = ""
    if admits is not None:
        inbound = f"iifname {OUTSIDE} {admits} dnat ip to udp dport map @bindings"
    if nat.has_hairpin:
        inbound += f"\n        iifname {INSIDE} ip daddr {outer} dnat ip to udp dport map @bindings"
        hairpin = f"iifname {INSIDE} oifname {INSIDE} ct status dnat masquerade"
    return f"""
{_REPLACED.format("ip nat")}
table ip nat {{
    map bindings {{
        typeof udp dport : ip saddr . udp sport
        size 65535
        flags dynamic,timeout
        timeout {nat.lifetime}s
    }}
    set contacted {{
        typeof ip saddr . udp dport
        size 65535
        flags dynamic,timeout
        timeout {nat.lifetime}s
    }}
    chain outgoing {{
        type nat hook postrouting priority srcnat
        oifname {OUTSIDE} {_source(nat, outer)}
        oifname {OUTSIDE} masquerade
        {hairpin}
    }}
    chain incoming {{
        type nat hook prerouting priority dstnat
        {inbound}
    }}
    chain departures {{
        type filter hook postrouting priority srcnat + 50
        oifname {OUTSIDE} meta l4proto udp jump record
    }}
    chain record {{
        ct direction original update @bindings {{ udp sport : {_INNER.format("original")} }}
        ct direction reply update @bindings {{ udp sport : {_INNER.format("reply")} }}
        update @contacted {{ ip daddr . udp sport }}
    }}
}}
"""


_INNER = "ct {0} ip saddr . ct {0} proto-src"


def _source(nat: Nat, outer: str) -> str:
    """The statement that maps a new flow of UDP."""
    match nat.mapping, nat.allocation:
        case Behaviour.ENDPOINT_INDEPENDENT, Allocation.PRESERVING:
            return "meta l4proto udp masquerade"
        case Behaviour.ADDRESS_AND_PORT_DEPENDENT, Allocation.RANDOM:
            return "meta l4proto udp masquerade random,fully-random"
        case Behaviour.ADDRESS_AND_PORT_DEPENDENT, Allocation.SEQUENTIAL:
            chosen = "numgen inc"
        case Behaviour.ENDPOINT_INDEPENDENT, Allocation.RANDOM:
            chosen = "jhash ip saddr . udp sport"
        case Behaviour.ADDRESS_DEPENDENT, Allocation.RANDOM:
            chosen = "jhash ip saddr . udp sport . ip daddr"
        case _:
            raise InvalidArgument(f"no rules make a NAT with {nat.text}")
    ports = ", ".join(f"{index} : {_FIRST_PORT + index}" for index in range(_PORTS))
    return f"meta l4proto udp snat ip to {outer}:{chosen} mod {_PORTS} map {{ {ports} }}"
