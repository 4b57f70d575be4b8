"""A host behind a home router with NAT and miniupnpd, and a host on the internet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING, Final, Self

from tests.support.namespaces import inside

if TYPE_CHECKING:
    from pathlib import Path

#: Addresses of the host, of the router on both sides, and of the host on the internet. miniupnpd
#: refuses external addresses that are reserved for documentation.
HOST, INNER, OUTER, INTERNET = "192.168.77.2", "192.168.77.1", "11.7.7.1", "11.7.7.2"

#: NAT with a random port for each destination. Strangers are dropped unless miniupnpd lets them in.
_RULES: Final = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname lan0 accept
        jump miniupnpd
    }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname wan0 ct state new drop
        %s
    }
    chain prerouting {
        type nat hook prerouting priority -100; policy accept;
        jump prerouting_miniupnpd
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        jump postrouting_miniupnpd
        oifname wan0 masquerade fully-random
    }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""
#: Drops requests of PCP, whose first byte is 2, as a router of before 2013 may.
_NO_PCP: Final = "udp dport 5351 @th,64,8 2 drop"


def why_not() -> str:
    """Why a router cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nft", "miniupnpd") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class HomeRouter:
    """The router and both hosts, in namespaces of their own.

    Args:
        directory: for miniupnpd's files.
        speaks: ``pcp``, ``nat-pmp`` or ``upnp``, and nothing else.
    """

    def __init__(self, directory: Path, speaks: str) -> None:
        self.host, self.router, self.internet = (
            f"pilot-{role}-{os.getpid()}" for role in ("home", "nat", "wan")
        )
        self._directory = directory
        self._speaks = speaks
        self._log: IO[str]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for namespace in (self.host, self.router, self.internet):
                _ip("netns", "add", namespace)
                stack.callback(_ip, "netns", "delete", namespace)
                _ip("-n", namespace, "link", "set", "lo", "up")
            for name, namespace, own, far in (
                ("lan0", self.host, INNER, HOST),
                ("wan0", self.internet, OUTER, INTERNET),
            ):
                peer = ("peer", "name", "up0", "netns", namespace)
                _ip("-n", self.router, "link", "add", name, "type", "veth", *peer)
                for place, device, address in ((self.router, name, own), (namespace, "up0", far)):
                    _ip("-n", place, "address", "add", f"{address}/24", "dev", device)
                    _ip("-n", place, "link", "set", device, "up")
            _ip("-n", self.host, "route", "add", "default", "via", INNER)
            self._run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            self._run("nft", _RULES % (_NO_PCP if self._speaks == "nat-pmp" else ""))
            stack.enter_context(self._start_miniupnpd())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            [*inside(self.router), *command], check=True, capture_output=True, text=True
        )
        return done.stdout

    def _start_miniupnpd(self) -> ExitStack:
        settings = {
            "ext_ifname": "wan0",
            "listening_ip": "lan0",
            "enable_natpmp": "no" if self._speaks == "upnp" else "yes",
            "enable_upnp": "yes" if self._speaks == "upnp" else "no",
            "secure_mode": "yes",
            "min_lifetime": "20",
            "lease_file": str(self._directory / "leases"),
            "uuid": "00000000-0000-0000-0000-000000000001",
        }
        config = self._directory / "miniupnpd.conf"
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        flags = ("-d", "-f", str(config), "-P", str(self._directory / "miniupnpd.pid"))
        process = subprocess.Popen(
            [*inside(self.router), "miniupnpd", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack = ExitStack()
        stack.enter_context(process)
        stack.callback(process.terminate)
        assert process.stderr is not None
        self._log = process.stderr
        self.wait_for("Listening for NAT-PMP/PCP" if self._speaks != "upnp" else "HTTP listening")
        return stack

    def wait_for(self, words: str) -> None:
        """Returns when miniupnpd logs these words."""
        lines = []
        for line in self._log:
            lines.append(line)
            if words in line:
                return
        raise AssertionError(f"miniupnpd ended without {words!r}: {''.join(lines)}")

    def mapped(self) -> dict[int, str]:
        """Endpoints that are mapped, by the external port."""
        rules = self._run("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")
        found = re.findall(r"(?:th|udp) dport (\d+).*dnat ip to ([\d.]+:\d+)", rules)
        return {int(port): endpoint for port, endpoint in found}

    def forget(self) -> None:
        """Loses every mapping and every connection, as a reboot does."""
        self._run("nft", "flush chain inet filter prerouting_miniupnpd")
        with suppress(FileNotFoundError):
            self._run("conntrack", "-F")
