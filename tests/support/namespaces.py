"""Hosts in network namespaces behind a kernel router that tells senders what is too big."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_interface
from typing import Self

from pilotstack.testing.internet import Namespaces


class Routed:
    """Two hosts and a router between them.

    Args:
        left: the left host's address and network, such as ``10.77.1.2/24``.
        right: the right one's, on another network.
        mtu: bytes of the largest IP packet on the right link.
    """

    def __init__(self, left: str, right: str, mtu: int = 1500) -> None:
        self._namespaces = Namespaces("pilotroute")
        self.left, self.right = ip_interface(left), ip_interface(right)
        self._mtu = mtu

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._namespaces)
            self._router = self._namespaces.add("router")
            self._router.set(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
            for name, own in (("left", self.left), ("right", self.right)):
                host = self._namespaces.add(name)
                gateway = own.network.broadcast_address - 1
                known = "" if own.version == 4 else "nodad"
                far = f"to-{name}"
                self._router.ip(
                    f"link add {far} type veth peer name up0 netns {host.name}",
                    f"address add {gateway}/{own.network.prefixlen} dev {far} {known}",
                    f"link set {far} up",
                )
                host.ip(
                    f"address add {own} dev up0 {known}",
                    "link set up0 up",
                    f"route add default via {gateway}",
                )
            self.set_mtu(self._mtu)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def left_name(self) -> str:
        """The namespace of the left host."""
        return self._namespaces.hosts["left"].name

    @property
    def right_name(self) -> str:
        """The namespace of the right host."""
        return self._namespaces.hosts["right"].name

    @property
    def router_name(self) -> str:
        """The namespace of the router."""
        return self._router.name

    def unplug_left(self) -> None:
        """Removes the left host's interface."""
        self._namespaces.hosts["left"].ip("link delete up0")

    def make_hole(self, mtu: int) -> None:
        """Makes the router drop larger datagrams towards the right host, silently.

        Errors about UDP are dropped; TCP still learns the MTU. The right host's own link stays as
        it is, so that its kernel tells nothing either.
        """
        self._router.nft(
            """
            table inet mute {
                chain out {
                    type filter hook output priority 0;
                    icmp type destination-unreachable @th,136,8 17 drop
                    icmpv6 type packet-too-big @th,112,8 17 drop
                }
            }
            """
        )
        self._router.ip(f"link set to-right mtu {mtu}")

    def set_mtu(self, mtu: int) -> None:
        """Makes the right link narrower, or wider."""
        self._router.ip(f"link set to-right mtu {mtu}")
        self._namespaces.hosts["right"].ip(f"link set up0 mtu {mtu}")


def inside(namespace: str) -> list[str]:
    """What runs a command on a host."""
    return ["ip", "netns", "exec", namespace]
