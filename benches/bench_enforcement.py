"""How long it takes until the end of a trust, or of a membership, is enforced at the other daemon.

Two daemons and a rendezvous on loopback. A program on the far side holds a stream that only the
trust, or the membership, allows; measured is the time from the command to the reset that it sees.
``python benches/bench_enforcement.py [ROUNDS]`` prints one line of JSON for each kind.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from pilotstack import Driver, StreamBroken
from pilotstack.ipc import network_requests as n
from pilotstack.ipc import requests as r
from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Rounds of each kind, and the port that the stream leads to.
ROUNDS, PORT = 100, 1234
#: Networks that members are removed from in turn.
_NETWORKS = 10


async def _trusted(a: Driver, b: Driver, ids: tuple[int, int]) -> None:
    await a.ask(r.RequestTrust(ids[1], "bench"))
    while not (await b.ask(r.ListPending())).pending:
        await anyio.lowlevel.checkpoint()
    await b.ask(r.ApproveTrust(ids[0]))
    await a.ask(r.AwaitTrust(ids[1], 10_000))
    await b.ask(r.AwaitTrust(ids[0], 10_000))


async def _member(a: Driver, b: Driver, network: int) -> None:
    await b.ask(n.JoinNetwork(network))


async def _until_reset(stream: Any) -> float:
    try:
        while True:
            await stream.receive()
    except (StreamBroken, anyio.EndOfStream):
        return time.perf_counter()


async def _measure(
    a: Driver,
    b: Driver,
    target: str,
    grant: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[Any]],
    rounds: int,
) -> list[float]:
    """Seconds from the command at ``a`` to the reset that the program at ``b`` sees."""
    took = []
    for _ in range(rounds):
        await grant()
        async with await b.listen(PORT) as listener:
            near = await a.dial(target, timeout=20)
            far = await listener.accept()
            ended: list[float] = []

            async def watch(stream: Any = far, ended: list[float] = ended) -> None:
                ended.append(await _until_reset(stream))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await anyio.sleep(0.02)
                begun = time.perf_counter()
                await end()
            took.append(ended[0] - begun)
            await near.aclose()
            await far.aclose()
    return took


async def _kicked(a: Driver, b: Driver, network: int, node: int, rounds: int) -> list[float]:
    return await _measure(
        a,
        b,
        f"{network}:{network:04X}.0000.{node:04X}:{PORT}",
        lambda: _member(a, b, network),
        lambda: a.ask(n.KickMember(network, node)),
        rounds,
    )


def _report(kind: str, took: list[float]) -> None:
    cuts = statistics.quantiles(took, n=100)
    figures = {
        "what": kind,
        "rounds": len(took),
        "p50_ms": round(1000 * cuts[49], 2),
        "p99_ms": round(1000 * cuts[98], 2),
        "most_ms": round(1000 * max(took), 2),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


async def main(rounds: int) -> None:
    """Measures both kinds."""
    with Network() as network:
        nodes = [network.start(f"agent-{name}", public=False) for name in "ab"]
        async with Driver(nodes[0].socket) as a, Driver(nodes[1].socket) as b:
            ids = nodes[0].node_id, nodes[1].node_id
            took = await _measure(
                a,
                b,
                f"agent-b:{PORT}",
                lambda: _trusted(a, b, ids),
                lambda: a.ask(r.RevokeTrust(ids[1])),
                rounds,
            )
            _report("revoke", took)
            took = []
            # One and the same order can be signed once a second only.
            for number in range(_NETWORKS):
                made = await a.ask(n.CreateNetwork(f"bench-{number}", "open"))
                took += await _kicked(a, b, made.network_id, ids[1], rounds // _NETWORKS)
            _report("kick", took)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
