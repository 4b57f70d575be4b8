"""How long a byte takes to an agent and back: the blocking SDK, from several threads.

    python measure.py agent-b agent-c

Port 7 of every daemon echoes. Threads may share a driver.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pilotstack
from pilotstack import sync

ROUNDS = 20


def measure(driver: sync.Driver, agent: str) -> str:
    """The round-trip times to an agent as text."""
    times = []
    try:
        with driver.dial((agent, 7), timeout=5, no_delay=True) as stream:
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                stream.sendall(b"x")
                if not stream.recv(1):
                    return f"{agent}: the agent closed the stream"
                times.append(1000 * (time.perf_counter() - begin))
    except pilotstack.PilotError as error:
        return f"{agent}: {error.message}"
    return f"{agent}: {statistics.median(times):.3f} ms ({min(times):.3f} to {max(times):.3f})"


def main(agents: list[str]) -> None:
    """Measures all agents at once."""
    with sync.Driver() as driver, ThreadPoolExecutor(max_workers=16) as pool:
        for line in pool.map(lambda agent: measure(driver, agent), agents):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
