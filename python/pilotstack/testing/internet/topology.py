"""A public internet, and home and carrier networks that join it.

The internet is one router, to which each public host and home has a link of its own, fast or as
slow and lossy as ``pilot-lab`` makes it. Homes use the same private network, as homes do. Routers
send no ICMP errors unless asked to: a path's MTU must be found without them.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from typing import TYPE_CHECKING, Self

from pilotstack.errors import InternalError
from pilotstack.testing.internet import nat as nats
from pilotstack.testing.internet.hosts import Host, Namespaces
from pilotstack.testing.internet.nat import INSIDE, OUTSIDE, Nat

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: What public hosts and homes get: an address each, a network of /48 each. The IPv4 addresses are
#: not reserved ones, behind which a router refuses to map ports; nothing here joins the internet.
_PUBLIC4 = IPv4Network("11.0.0.0/16")
_PUBLIC6 = IPv6Network("2001:db8::/32")
#: What homes, and carriers, give to those behind them.
_HOME4 = IPv4Network("192.168.1.0/24")
_CARRIER4 = IPv4Network("100.64.0.0/24")
#: The next hop of everyone on the internet.
_HUB4, _HUB6 = "11.1.0.1", "fe80::1"
#: Makes the kernel cut a batch into packets before a device, whose peer then sees their sizes.
_UNBATCHED = f"link set {OUTSIDE} gso_max_segs 1"
#: Names of counters.
_WAYS = ("there", "back")


@dataclass(frozen=True, slots=True)
class Link:
    """How a host or a home is joined to what is above it.

    Args:
        path: a description for ``pilot-lab``, such as ``delay=20ms loss=0.01``; empty for a cable
            without delay.
        mtu: bytes of the largest IP packet; 4 more pass on the way up.
    """

    has_ipv4: bool = True
    has_ipv6: bool = False
    path: str = ""
    mtu: int = 1500


@dataclass(slots=True)
class _Joined:
    """A link that exists."""

    device: str
    number: int
    lab: subprocess.Popen[str] | None = None


class Internet:
    """The public internet; a context manager that removes everything that was made in it.

    Args:
        label: begins the names of the namespaces.
        lab: the program ``pilot-lab``, for links with a path.
        has_icmp: routers tell senders of packets that are too big.
    """

    def __init__(
        self, label: str = "pilotnet", *, lab: Path | None = None, has_icmp: bool = False
    ) -> None:
        self._namespaces = Namespaces(label)
        self._lab = lab
        self._has_icmp = has_icmp
        self._stack = ExitStack()
        self._numbers = count(1)
        self._joined: dict[str, _Joined] = {}
        self.hub: Host

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._namespaces)
            self.hub = self.add("hub")
            self._route(self.hub)
            self.hub.ip(f"address add {_HUB4}/32 dev lo")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, role: str) -> Host:
        """A host that is joined to nothing yet."""
        return self._namespaces.add(role)

    def public(self, role: str, link: Link = Link()) -> Host:
        """A host with public addresses."""
        host = self.add(role)
        self.join(host, link)
        return host

    def home(
        self, role: str, nat: Nat | None, link: Link = Link(), *, at: Home | None = None
    ) -> Home:
        """A home network behind a router of its own.

        Args:
            nat: of the router; without one there is a firewall, and IPv6 only.
            at: the carrier whose customer it is.
        """
        return self._network(role, nat, link, at, _HOME4)

    def carrier(self, role: str, nat: Nat, link: Link = Link()) -> Home:
        """A carrier-grade NAT, behind which homes are."""
        return self._network(role, nat, link, None, _CARRIER4)

    def _network(
        self, role: str, nat: Nat | None, link: Link, at: Home | None, inner: IPv4Network
    ) -> Home:
        router = self.add(role)
        self._route(router)
        return Home(self, router, nat, link, inner, at)

    def _route(self, router: Host) -> None:
        """Makes a host forward packets."""
        router.set(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        if not self._has_icmp:
            router.nft("""
                table inet silent {
                    chain output {
                        type filter hook output priority filter
                        icmp type destination-unreachable drop
                        icmpv6 type { packet-too-big, destination-unreachable } drop
                    }
                }
            """)

    def join(self, host: Host, link: Link) -> int:
        """Gives a host a link and addresses that nobody had before.

        Returns the number of its network.
        """
        number = next(self._numbers)
        joined = self._joined[host.name] = _Joined(f"site{number}", number)
        if link.path:
            joined.lab = self._slow_link(host, joined.device, link.path)
        else:
            peer = f"peer name {OUTSIDE} netns {host.name}"
            self.hub.ip(f"link add {joined.device} type veth {peer}")
            if link.mtu < 1500:
                host.ip(_UNBATCHED)
        self.hub.ip(f"link set {joined.device} up", _narrow(joined.device, link.mtu))
        host.ip(f"link set {OUTSIDE} up")
        self._address(host, joined, link)
        return number

    def _address(self, host: Host, joined: _Joined, link: Link) -> None:
        host.ipv4 = host.ipv6 = ""
        device = joined.device
        if link.has_ipv4:
            host.ipv4 = str(_PUBLIC4[joined.number])
            host.ip(
                f"address add {host.ipv4}/32 dev {OUTSIDE}",
                f"route add default via {_HUB4} dev {OUTSIDE} onlink",
            )
            self.hub.ip(f"route add {host.ipv4}/32 dev {device}")
        if link.has_ipv6:
            host.ipv6 = str(_network6(joined.number)[1])
            host.ip(
                f"address add {host.ipv6}/64 dev {OUTSIDE} nodad",
                f"route add default via {_HUB6} dev {OUTSIDE}",
            )
            self.hub.ip(
                f"address add {_HUB6}/64 dev {device} nodad",
                f"route add {host.ipv6}/128 dev {device}",
                f"route add {_network6(joined.number)} via {host.ipv6} dev {device} onlink",
            )

    def _slow_link(self, host: Host, device: str, path: str) -> subprocess.Popen[str]:
        """Joins by a pair of TUN devices with a program between them."""
        if self._lab is None:
            raise InternalError("a link with a path needs pilot-lab")
        lab = subprocess.Popen(
            self.hub.command(str(self._lab), device, f"{device}u"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(_end, lab)
        _expect_ok(lab)
        self.hub.ip(f"link set {device}u netns {host.name} name {OUTSIDE}")
        for place, name in ((self.hub, device), (host, OUTSIDE)):
            place.ip(f"link set {name} txqueuelen 5000")
        _tell(lab, path)
        return lab

    def leave(self, host: Host) -> None:
        """Takes a host's link away, and its addresses with it."""
        joined = self._joined.pop(host.name)
        if joined.lab is not None:
            _end(joined.lab)
        else:
            self.hub.ip(f"link delete {joined.device}")
        host.ipv4 = host.ipv6 = ""

    def shape(self, host: Host, path: str) -> None:
        """Changes the path of a host's or router's slow link."""
        lab = self._joined[host.name].lab
        if lab is None:
            raise InternalError(f"the link of {host.role} has no pilot-lab")
        _tell(lab, path)

    def set_mtu(self, host: Host, mtu: int) -> None:
        """Makes the link of a host or router narrower, or wider."""
        host.ip(_UNBATCHED)
        self.hub.ip(_narrow(self._joined[host.name].device, mtu))

    def block(self, first: Host, second: Host) -> None:
        """Loses every packet between two hosts or homes."""
        self._between(first, second, "blocked", ("drop", "drop"))

    def count(self, first: Host, second: Host, *, longer_than: int = 0) -> None:
        """Begins to count packets of more than so many bytes between two hosts or homes."""
        counters = "".join(f"counter {name} {{}}\n" for name in _WAYS)
        self.hub.nft(f"table inet counted {{\n{counters}}}")
        there, back = (f"meta length > {longer_than} counter name {name}" for name in _WAYS)
        self._between(first, second, "counted", (there, back))

    @property
    def counted(self) -> tuple[int, int]:
        """Packets since :meth:`count`, from the first to the second and back."""
        found = json.loads(self.hub.run("nft", "--json", "list", "counters"))["nftables"]
        rows = [row["counter"] for row in found if "counter" in row]
        there, back = (
            next(row["packets"] for row in rows if row["name"] == name) for name in _WAYS
        )
        return there, back

    def _between(self, first: Host, second: Host, table: str, verdicts: tuple[str, str]) -> None:
        """Rules for all packets between two hosts or homes: there, and back."""
        rules = "\n".join(
            f"{family} saddr {a} {family} daddr {b} {verdict}"
            for family, left, right in (
                ("ip", first.ipv4, second.ipv4),
                ("ip6", _whole(first.ipv6), _whole(second.ipv6)),
            )
            if left and right
            for (a, b), verdict in zip(((left, right), (right, left)), verdicts, strict=True)
        )
        self.hub.nft(f"""
            table inet {table} {{
                chain forward {{
                    type filter hook forward priority filter
                    {rules}
                }}
            }}
        """)

    def unblock(self) -> None:
        """Undoes every :meth:`block`."""
        self.hub.nft("table inet blocked {}\ndelete table inet blocked")


class Home:
    """A network behind a router, which joins the internet or a carrier's network.

    Args:
        link: the router's, on the internet.
        inner: private addresses of those behind it; the first is the router's.
        carrier: whose customer it is, if anyone's.
    """

    def __init__(
        self,
        internet: Internet,
        router: Host,
        nat: Nat | None,
        link: Link,
        inner: IPv4Network,
        carrier: Home | None,
    ) -> None:
        self._internet = internet
        self.router = router
        self.nat = nat
        self.link = link
        self._inner = inner
        self._inner6 = ""
        self._carrier = carrier
        self._numbers = count(2)
        #: Who is behind it, and which device of the router that is.
        self._hosts: dict[str, tuple[Host, int]] = {}
        router.ip(
            f"link add {INSIDE} type bridge",
            f"link set {INSIDE} up",
            f"address add {inner[1]}/{inner.prefixlen} dev {INSIDE}",
            f"address add {_HUB6}/64 dev {INSIDE} nodad",
        )
        self._connect()

    def _connect(self) -> None:
        if self._carrier is not None:
            self._carrier.join(self.router)
        else:
            number = self._internet.join(self.router, self.link)
            if self.link.has_ipv6:
                self._inner6 = f"{_network6(number)[1 << 64]}".removesuffix("::")
                self.router.ip(f"route add {self._inner6}::/64 dev {INSIDE}")
        nats.set_up(self.router, self.nat)

    def renumber(self) -> None:
        """Gets other addresses, as after a nightly disconnection."""
        if self._carrier is not None:
            self._carrier.leave(self.router)
        else:
            self._internet.leave(self.router)
        self._connect()
        nats.forget_flows(self.router)
        for host, number in self._hosts.values():
            if host.ipv6:
                host.ip(f"address delete {host.ipv6}/64 dev {OUTSIDE}")
                self._give_ipv6(host, number)

    def remember(self, seconds: int) -> None:
        """Lets bindings live that long from now on."""
        self.nat = self.nat.living(seconds) if self.nat else None
        nats.set_up(self.router, self.nat)

    def reboot(self) -> None:
        """Forgets every binding."""
        nats.reboot(self.router, self.nat)

    def host(self, role: str) -> Host:
        """A host of this network."""
        host = self._internet.add(role)
        self.join(host)
        return host

    def join(self, host: Host) -> None:
        """Plugs a host in and gives it addresses that nobody had before."""
        number = next(self._numbers)
        self._hosts[host.name] = host, number
        device = f"port{number}"
        self.router.ip(
            f"link add {device} type veth peer name {OUTSIDE} netns {host.name}",
            f"link set {device} master {INSIDE} up",
        )
        host.ipv4 = host.ipv6 = ""
        host.ip(f"link set {OUTSIDE} up")
        if self.nat:
            host.ipv4 = str(self._inner[number])
            host.ip(
                f"address add {host.ipv4}/{self._inner.prefixlen} dev {OUTSIDE}",
                f"route add default via {self._inner[1]}",
            )
        if self._inner6:
            self._give_ipv6(host, number)

    def _give_ipv6(self, host: Host, number: int) -> None:
        host.ipv6 = f"{self._inner6}::{number:x}"
        host.ip(
            f"address add {host.ipv6}/64 dev {OUTSIDE} nodad",
            f"route replace default via {_HUB6} dev {OUTSIDE}",
        )

    def leave(self, host: Host) -> None:
        """Unplugs a host, which loses its addresses."""
        _, number = self._hosts.pop(host.name)
        self.router.ip(f"link delete port{number}")
        host.ipv4 = host.ipv6 = ""


def _network6(number: int) -> IPv6Network:
    """The network of the nth link of the internet: its first /64 is the link, the second behind."""
    return IPv6Network((int(_PUBLIC6.network_address) + (number << 80), 48))


def _whole(address: str) -> str:
    """The network of a public IPv6 address."""
    return str(IPv6Network((address, 48), strict=False)) if address else ""


def _narrow(device: str, mtu: int) -> str:
    return f"link set {device} mtu {mtu}"


def _tell(lab: subprocess.Popen[str], path: str) -> None:
    """Describes a path to ``pilot-lab``."""
    assert lab.stdin is not None
    lab.stdin.write(f"{path}\n")
    lab.stdin.flush()
    _expect_ok(lab)


def _expect_ok(lab: subprocess.Popen[str]) -> None:
    assert lab.stdout is not None
    if (answer := lab.stdout.readline().strip()) != "ok":
        raise InternalError(f"pilot-lab says {answer!r}")


def _end(lab: subprocess.Popen[str]) -> None:
    """Ends ``pilot-lab``, which removes its devices."""
    assert lab.stdin is not None
    assert lab.stdout is not None
    lab.stdin.close()
    lab.wait()
    lab.stdout.close()
