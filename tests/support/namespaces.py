"""Hosts in network namespaces behind a kernel router."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from ipaddress import ip_interface
from typing import Self


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Routed:
    """Two hosts and a router between them.

    Args:
        left: the left host's address and network, such as ``10.77.1.2/24``.
        right: the right one's, on another network.
        mtu: bytes of the largest IP packet on the right link.
    """

    def __init__(self, left: str, right: str, mtu: int = 1500) -> None:
        #: Names of the namespaces, of this process alone.
        self.left_name, self.router_name, self.right_name = (
            f"pilot-{role}-{os.getpid()}" for role in ("left", "router", "right")
        )
        self.left, self.right = ip_interface(left), ip_interface(right)
        self._mtu = mtu

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for namespace in (self.left_name, self.router_name, self.right_name):
                _ip("netns", "add", namespace)
                stack.callback(_ip, "netns", "delete", namespace)
                _ip("-n", namespace, "link", "set", "lo", "up")
            for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                write = ("sh", "-c", f"echo 1 > /proc/sys/net/{setting}")
                subprocess.run([*inside(self.router_name), *write], check=True)
            for name, namespace, own in (
                ("left", self.left_name, self.left),
                ("right", self.right_name, self.right),
            ):
                gateway = own.network.broadcast_address - 1
                length = own.network.prefixlen
                far = f"to-{name}"
                peer = ("peer", "name", "up0", "netns", namespace)
                _ip("-n", self.router_name, "link", "add", far, "type", "veth", *peer)
                for place, device, address in (
                    (self.router_name, far, gateway),
                    (namespace, "up0", own.ip),
                ):
                    known = () if own.version == 4 else ("nodad",)
                    to = (f"{address}/{length}", "dev", device, *known)
                    _ip("-n", place, "address", "add", *to)
                    _ip("-n", place, "link", "set", device, "up")
                _ip("-n", namespace, "route", "add", "default", "via", str(gateway))
            self.set_mtu(self._mtu)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set_mtu(self, mtu: int) -> None:
        """Makes the right link narrower, or wider."""
        for namespace, device in ((self.router_name, "to-right"), (self.right_name, "up0")):
            _ip("-n", namespace, "link", "set", device, "mtu", str(mtu))


def inside(namespace: str) -> list[str]:
    """What runs a command on a host."""
    return ["ip", "netns", "exec", namespace]
