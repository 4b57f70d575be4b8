"""Resources of a process: descriptors, threads, memory, and its own counters."""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING

from pilotstack import sync

if TYPE_CHECKING:
    from pilotstack.testing import Node

#: Tolerated growth of memory, as a fraction and in MiB.
GROWTH, SLACK = 0.2, 8
#: Counts that may fluctuate slightly.
_LOOSE = {"descriptors": 4, "threads": 2, "connections": 0, "ports": 0, "clients": 1}

Counts = dict[str, int]


def of_process(pid: int) -> Counts:
    """Descriptors, threads and resident MiB."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "memory": int(status["VmRSS"].split()[0]) >> 10,
    }


def of_daemon(node: Node) -> Counts:
    """The same, and connections, peers and ports."""
    with sync.Driver(node.socket) as driver:
        info = driver.info()
    own = {"connections": info.connections, "peers": info.peers, "ports": info.ports}
    return of_process(node.pid) | own


def of_registry(pid: int, http: str) -> Counts:
    """The same, and connections and held polls."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    values = dict(line.split(" ") for line in lines if not line.startswith("#"))
    names = {"connections": "pilot_connections", "held_polls": "pilot_held_polls"}
    return of_process(pid) | {name: int(float(values[key])) for name, key in names.items()}


def excess(before: Counts, after: Counts) -> list[str]:
    """Counts that did not return to their earlier value."""
    found = []
    for name, count in after.items():
        bound = before[name] + _LOOSE.get(name, 0)
        if name == "memory":
            bound = max(int(before[name] * (1 + GROWTH)), before[name] + SLACK)
        if count > bound:
            found.append(f"{name} {before[name]} -> {count}")
    return found
