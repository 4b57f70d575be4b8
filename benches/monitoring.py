"""What it costs a daemon with a thousand streams to be looked at: by one viewer of the dashboard,
and by a Prometheus that asks for metrics every 15 seconds.

Processor time of the daemon is taken in turn with nobody looking and with each of the two, so that
whatever the streams themselves cost is in both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack import sync
from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Callable

#: Percent of a core, for each of the two.
BUDGET = 1.0
#: Seconds between two scrapes, as Prometheus has it by default.
SCRAPE = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


def spent(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def share(pid: int, seconds: float) -> float:
    """Percent of a core that a process uses."""
    before, began = spent(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (spent(pid) - before) / (time.monotonic() - began)


def follow(url: str, token: str, stopping: threading.Event) -> None:
    """Reads the dashboard's events, as a tab does."""
    request = urllib.request.Request(
        f"{url}api/events", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request) as response:
        while not stopping.is_set() and response.readline():
            pass


def scrape(url: str, stopping: threading.Event) -> None:
    """Asks for metrics, as Prometheus does."""
    while True:
        with urllib.request.urlopen(f"{url}metrics") as response:
            response.read()
        if stopping.wait(SCRAPE):
            return


def measure(pid: int, seconds: float, look: Callable[[threading.Event], None] | None) -> float:
    """The share while somebody looks, or nobody does."""
    stopping = threading.Event()
    if look is None:
        return share(pid, seconds)
    thread = threading.Thread(target=look, args=(stopping,), daemon=True)
    thread.start()
    try:
        return share(pid, seconds)
    finally:
        stopping.set()
        thread.join()


def main() -> None:
    """Prints the figures as JSON; the status is 1 if one is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with Network() as network, ExitStack() as stack:
        node = network.start("agent-a", "--http", "127.0.0.1:0")
        network.start("agent-b")
        link = Path(node.process.ready["dashboard"]).read_text().strip()
        url, _, token = link.partition("#token=")
        driver = stack.enter_context(sync.Driver(node.socket))
        streams = [stack.enter_context(driver.dial("agent-b:7")) for _ in range(arguments.streams)]
        for stream in streams:
            stream.sendall(b"x")
            stream.recv(1)
        looks: dict[str, Callable[[threading.Event], None] | None] = {
            "nobody": None,
            "dashboard": lambda stopping: follow(url, token, stopping),
            "metrics": lambda stopping: scrape(url, stopping),
        }
        shares: dict[str, list[float]] = {name: [] for name in looks}
        for _ in range(arguments.rounds):
            for name, look in looks.items():
                shares[name].append(measure(node.pid, arguments.seconds, look))
    least = {name: min(values) for name, values in shares.items()}
    costs = {name: round(least[name] - least["nobody"], 2) for name in least if name != "nobody"}
    print(json.dumps({"streams": arguments.streams, "percent_of_a_core": costs, **least}))
    sys.exit(any(cost > BUDGET for cost in costs.values()))


if __name__ == "__main__":
    main()
