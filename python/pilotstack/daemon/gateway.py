"""Finds the default gateway of this host for IPv4."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Final

import anyio

#: Flags of a route that is up and has a gateway (route(8)).
_UP, _HAS_GATEWAY = 0x1, 0x2
_ROUTES: Final = Path("/proc/net/route")
#: Seconds for ``route`` on systems without /proc.
_ROUTE: Final = 2.0


async def default_gateway() -> str | None:
    """The IPv4 address of the router that packets to the internet go to; ``None`` without one."""
    if _ROUTES.exists():
        try:
            return gateway_in(_ROUTES.read_text())
        except OSError:
            return None
    with anyio.move_on_after(_ROUTE):
        try:
            asked = await anyio.run_process(["/sbin/route", "-n", "get", "default"], check=False)
        except OSError:
            return None
        return gateway_told(asked.stdout.decode(errors="replace"))
    return None


def gateway_in(table: str) -> str | None:
    """The gateway of the default route with the lowest metric in /proc/net/route."""
    best: tuple[int, str] | None = None
    for line in table.splitlines()[1:]:
        match line.split():
            case [_, "00000000", gateway, flags, _, _, metric, "00000000", *_]:
                if int(flags, 16) & (_UP | _HAS_GATEWAY) == _UP | _HAS_GATEWAY:
                    # The kernel prints the bytes of the address as a number of this machine.
                    value = int(gateway, 16).to_bytes(4, sys.byteorder)
                    row = int(metric), str(ipaddress.IPv4Address(value))
                    best = row if best is None else min(best, row)
    return best and best[1]


def gateway_told(answer: str) -> str | None:
    """The gateway in an answer of ``route -n get default``, as BSD and macOS have it."""
    for line in answer.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "gateway":
            try:
                return str(ipaddress.IPv4Address(value.strip()))
            except ValueError:
                return None
    return None
