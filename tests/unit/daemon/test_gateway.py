"""How the default gateway is read from what systems say about routes."""

from __future__ import annotations

import sys

import pytest

from pilotstack.daemon.gateway import gateway_in, gateway_told

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def row(gateway: str, metric: int, *, flags: int = 3, mask: str = "00000000") -> str:
    number = int.from_bytes(bytes(map(int, gateway.split("."))), sys.byteorder)
    return f"eth0\t00000000\t{number:08X}\t{flags:04X}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("rows", "gateway"),
    [
        ([], None),
        ([row("192.168.1.1", 100)], "192.168.1.1"),
        ([row("192.168.1.1", 100), row("10.0.0.1", 50)], "10.0.0.1"),
        # A tunnel has a route without a gateway; one that is down does not count.
        ([row("0.0.0.0", 0, flags=1), row("10.0.0.1", 50)], "10.0.0.1"),
        ([row("10.0.0.1", 50, flags=2)], None),
        # Half of the internet, as VPNs route it.
        ([row("10.0.0.1", 50, mask="00000080")], None),
        (["eth0\tnonsense\n"], None),
    ],
)
def test_the_gateway_of_the_best_default_route_in_linux(
    rows: list[str], gateway: str | None
) -> None:
    assert gateway_in(HEADER + "".join(rows)) == gateway


@pytest.mark.parametrize(
    ("gateway", "expected"), [("192.168.1.1", "192.168.1.1"), ("link#14", None), ("fe80::1", None)]
)
def test_the_gateway_that_route_tells(gateway: str, expected: str | None) -> None:
    answer = (
        "   route to: default\ndestination: default\n       mask: default\n"
        f"    gateway: {gateway}\n  interface: en0\n"
    )
    assert gateway_told(answer) == expected
    assert gateway_told("route: writing to routing socket: not in table\n") is None
