"""Runs the load and compares resources before and after.

The load runs twice: briefly, so that allocators and caches have what they need, and for the given
time. Between and after, everything must come to rest.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from benches.soak import counts
from benches.soak.honest import Honest
from benches.soak.hostile import Hostile

from pilotstack.testing import Network, Node

if TYPE_CHECKING:
    from benches.soak.counts import Counts

#: Time for all resources to be released: idle timeout of streams plus a sweep, seconds.
REST = 200.0
_LOOK = 2.0
_RESTART = 12.0


class Soak:
    """One network under load."""

    def __init__(self, network: Network, http: str, seed: int) -> None:
        rng = random.Random(seed)
        self._network = network
        self._http = http
        self._rng = rng
        self._a, self._b = network.start("agent-a"), network.start("agent-b")
        network.start("agent-c")
        self.honest = [Honest(self._a, "agent-b", rng), Honest(self._b, "agent-a", rng)]
        self.hostile = Hostile(
            [self._a.tunnel, self._b.tunnel, network.rendezvous.ready["beacon"]],
            [network.registry, http],
            [self._a.socket, self._b.socket],
            rng,
        )
        self.restarts = 0

    async def load(self, seconds: float) -> None:
        """Puts everything under load."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for honest in self.honest:
                    tasks.start_soon(honest.run)
                tasks.start_soon(self.hostile.run)
                tasks.start_soon(self._restart)

    async def _restart(self) -> None:
        """A third node starts and stops, gracefully and by SIGKILL."""
        while True:
            await anyio.sleep(_RESTART)
            process = self._network.nodes["agent-c"].process
            end = process.kill if self.restarts % 2 else process.stop
            await anyio.to_thread.run_sync(end)
            await anyio.to_thread.run_sync(self._network.start, "agent-c")
            self.restarts += 1

    def _counts(self) -> dict[str, Counts]:
        daemons: tuple[Node, ...] = (self._a, self._b)
        found = {node.name: counts.of_daemon(node) for node in daemons}
        found["rendezvous"] = counts.of_registry(self._network.rendezvous.pid, self._http)
        return found

    async def rest(self, before: dict[str, Counts] | None) -> tuple[dict[str, Counts], list[str]]:
        """Waits until every count is what it was, or without streams; gives counts and excesses."""
        end = time.monotonic() + REST
        while True:
            found = self._counts()
            if before is None:
                excess = [name for name, each in found.items() if self._is_busy(name, each)]
            else:
                excess = [
                    f"{name}: {text}"
                    for name, each in found.items()
                    for text in counts.excess(before[name], each)
                ]
            if not excess or time.monotonic() > end:
                return found, excess
            await anyio.sleep(_LOOK)

    @staticmethod
    def _is_busy(name: str, found: Counts) -> bool:
        return name != "rendezvous" and found["connections"] > 0


def table(before: dict[str, Counts], after: dict[str, Counts]) -> str:
    """Counts before and after, a line each."""
    lines = [f"{'process':12} {'count':12} {'before':>8} {'after':>8}"]
    for name, each in after.items():
        for count, value in each.items():
            lines.append(f"{name:12} {count:12} {before[name][count]:8} {value:8}")
    return "\n".join(lines)


async def run(seconds: float, seed: int) -> int:
    """Runs the soak; the exit status."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http = f"127.0.0.1:{probe.getsockname()[1]}"
    with Network("--http", http) as network:
        soak = Soak(network, http, seed)
        print(f"seed {seed}: warming up", flush=True)
        await soak.load(max(10.0, seconds / 6))
        before, _ = await soak.rest(None)
        print(f"{seconds:.0f} s of load", flush=True)
        await soak.load(seconds)
        after, excess = await soak.rest(before)
        print(table(before, after))
        done, failed = Counter[str](), Counter[str]()
        for each in soak.honest:
            done += each.done
            failed += each.failed
        report = {
            "honest": done,
            "failed": failed,
            "hostile_frames": soak.hostile.frames,
            "hostile_connections": soak.hostile.connections,
            "restarts": soak.restarts,
            "excess": excess,
            "seed": seed,
        }
        print(json.dumps(report))
    is_right = not excess and not failed
    print("everything returned to its baseline" if is_right else "something is left or failed")
    return 0 if is_right else 1


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=300.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    sys.exit(anyio.run(run, options.seconds, options.seed))


if __name__ == "__main__":
    main()
