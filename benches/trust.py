"""Time until two private nodes trust each other after the second consent.

Measures, over real processes on loopback: the registry's round trip, a write that it makes durable,
and the time from the second consent to the trust at the first node, pushed by the registry.

    .venv/bin/python benches/trust.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import time

import anyio

from pilotstack import Driver
from pilotstack.daemon.identity import load_or_create
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.testing import Network, Node

#: Time allowed on top of two round trips, seconds.
ALLOWANCE = 0.050


async def consent(asking: Driver, asked: Driver, a: Node, b: Node) -> tuple[float, float]:
    """Seconds until the request waits at the second node, and from its consent to trust."""
    begin = time.perf_counter()
    await asking.handshake(b.node_id, "bench")
    while not await asked.pending():
        await anyio.lowlevel.checkpoint()
    requested = time.perf_counter() - begin
    done: list[float] = []

    async def wait() -> None:
        assert await asking.wait_for_trust(b.node_id)
        done.append(time.perf_counter())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        begin = time.perf_counter()
        await asked.approve(a.node_id)
    await asking.untrust(b.node_id)
    while await asked.trusted():
        await anyio.lowlevel.checkpoint()
    return requested, done[0] - begin


async def measure(network: Network, rounds: int) -> None:
    a, b = network.start("agent-a", "--private"), network.start("agent-b", "--private")
    identity = load_or_create(network.path / "agent-a" / "identity.json")
    registry = RegistryClient(parse_addresses(network.registry), identity)
    registry.node_id = a.node_id
    reads, writes = [], []
    for number in range(rounds):
        begin = time.perf_counter()
        await registry.lookup(b.node_id)
        reads.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        await registry.set_hostname(f"agent-{number % 2}")
        writes.append(time.perf_counter() - begin)
    await registry.aclose()
    samples = []
    async with Driver(a.socket) as asking, Driver(b.socket) as asked:
        for _ in range(rounds):
            samples.append(await consent(asking, asked, a, b))
            # Messages are sorted by whole seconds, and at most 30 of them may run ahead.
            await anyio.sleep(2)
    rtt = statistics.median(reads)
    for name, values in (
        ("registry round trip", reads),
        ("registry durable write", writes),
        ("request until it waits", [requested for requested, _ in samples]),
        ("second consent to trust", [trusted for _, trusted in samples]),
    ):
        values.sort()
        p95 = values[int(0.95 * (len(values) - 1))]
        print(
            f"{name:24} median {statistics.median(values) * 1e3:7.1f} ms  p95 {p95 * 1e3:7.1f} ms"
        )
    print(f"{'bound (2 RTT + 50 ms)':24}        {(2 * rtt + ALLOWANCE) * 1e3:7.1f} ms")


if __name__ == "__main__":
    with Network() as network:
        anyio.run(measure, network, int(sys.argv[1]) if len(sys.argv) > 1 else 20)
