"""How long an embedded node takes until it is registered and serves: `python benches/node.py`.

The registry and the beacon are other processes on this host. `first` is the first node of a fresh
process, which imports the daemon; `next` are those after it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import anyio

import pilotstack
from pilotstack.testing import Network, network

#: Milliseconds until a node is ready, at most.
BUDGET = 150.0
NODES = 20
PROCESSES = 5


async def starts(registry: str, beacon: str, count: int) -> list[float]:
    """Milliseconds that each of some nodes takes, one after the other."""
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        async with pilotstack.Node(
            registry=registry, beacon=beacon, listen="127.0.0.1:0", may_map_port=False
        ):
            found.append((time.perf_counter() - begin) * 1000)
    return found


async def pairs(count: int) -> list[float]:
    """Milliseconds until a network of a test, with two nodes, can be used."""
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        async with network() as net, net.node("agent-a"), net.node("agent-b"):
            found.append((time.perf_counter() - begin) * 1000)
    return found


def show(name: str, found: list[float], budget: float | None = None) -> None:
    """Prints a row."""
    middle, worst = statistics.median(found), max(found)
    verdict = "" if budget is None else f"  (budget {budget:.0f} ms)"
    print(f"{name:24} median {middle:7.1f} ms   worst {worst:7.1f} ms{verdict}")


def main() -> None:
    """Measures."""
    if len(sys.argv) == 3:
        registry, beacon = sys.argv[1:]
        print(anyio.run(starts, registry, beacon, 1)[0])
        return
    with Network() as net:
        where = net.registry, str(net.rendezvous.ready["beacon"])
        command = [sys.executable, __file__, *where]
        first = [float(subprocess.check_output(command)) for _ in range(PROCESSES)]
        show("first of a process", first)
        found = anyio.run(starts, *where, NODES + 1)[1:]
        show("next", found, BUDGET)
    show("network() of two nodes", anyio.run(pairs, NODES + 1)[1:])


if __name__ == "__main__":
    main()
