"""Files and events through two daemons, beside the raw stream and beside a NATS server.

``.venv/bin/python -m benches.services`` prints a table; ``--json FILE`` writes the figures,
``--quick`` moves less, ``--sparse BYTES`` sends a sparse file of that size and watches memory.
``--nats PROGRAM`` names a nats-server; without one that part is left out. Files are in ``/dev/shm``
so that the disk is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benches import throughput
from benches.throughput import MB, Usage
from rich.console import Console
from rich.table import Table

from pilotstack.testing import Network, Node

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")
Values = dict[str, Any]
#: Events, and how many a second: slower than both brokers, to measure the way and not the queue.
FEW, RATE = 20, 1.0


class Worker(throughput.Worker):
    """A load generator of ``service_workers.py``."""

    def __init__(self, role: str, **params: object) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "service_workers.py")),
                *(role, json.dumps(params, default=str)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


class Peak:
    """Watches the resident memory of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_over = threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.bytes = max(self.bytes, Usage.of(self._pid).rss_bytes)

    def __enter__(self) -> Peak:
        self.bytes = Usage.of(self._pid).rss_bytes
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def send(a: Node, b: Node, path: Path) -> Values:
    """Sends a file once, and removes what arrived."""
    before = [Usage.of(node.pid) for node in (a, b)]
    worker = Worker("send_file", socket=a.socket, address=b.address, path=path)
    with Peak(b.pid) as peak:
        values = worker.result()
    worker.stop()
    after = [Usage.of(node.pid) for node in (a, b)]
    cpu = sum(n.cpu_seconds - o.cpu_seconds for n, o in zip(after, before, strict=True))
    return {
        "mb_per_s": values["bytes"] / values["seconds"] / MB,
        "sender_peak_mb": values["peak_rss"] / MB,
        "receiver_peak_mb": peak.bytes / MB,
        "receiver_before_mb": before[1].rss_bytes / MB,
        "daemon_cpu_s_per_gb": cpu / (values["bytes"] / 1e9),
    }


def files(network: Network, folder: Path, *, size: int, rounds: int, sparse: int) -> Values:
    """File and raw stream in turn, so that both meet the same machine."""
    a = network.start("agent-a")
    b = network.start("agent-b", "--files", str(folder / "b"))
    path = folder / "file"
    with path.open("wb") as file:
        block = os.urandom(MB)
        for _ in range(size // MB):
            file.write(block)
    rows = []
    for _ in range(rounds):
        raw = throughput.stream_throughput(a, b, streams=1, size=size)["mb_per_s"]
        rows.append({"raw_mb_per_s": raw, **send(a, b, path)})
        shutil.rmtree(folder / "b" / "received")
        b.process.stop()
        b = network.start("agent-b", "--files", str(folder / "b"))
    found: Values = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    found["ratio"] = statistics.median(row["mb_per_s"] / row["raw_mb_per_s"] for row in rows)
    path.unlink()
    if sparse:
        with path.open("wb") as file:
            file.truncate(sparse)
        found["sparse"] = {"bytes": sparse, **send(a, b, path)}
        path.unlink()
    for node in (a, b):
        node.process.stop()
    return found


def fan_out(a: Node, b: Node, *, count: int, events: int, rate: float) -> Values:
    """From a publisher at one daemon through the broker of the other to subscribers there."""
    takers = Worker(
        "subscribers",
        socket=a.socket,
        address=b.address,
        count=count,
        events=events,
        seconds=120,
    )
    takers.result()
    time.sleep(1)
    giver = Worker("publisher", socket=a.socket, address=b.address, events=events, rate=rate)
    return _rates(takers, giver)


def nats_fan_out(port: int, *, count: int, events: int, rate: float) -> Values:
    takers = Worker("nats_subscribers", port=port, count=count, events=events, seconds=120)
    takers.result()
    giver = Worker("nats_publisher", port=port, events=events, rate=rate)
    return _rates(takers, giver)


def _rates(takers: Worker, giver: Worker) -> Values:
    published, got = giver.result(), takers.result()
    for worker in (takers, giver):
        worker.stop()
    seconds = got["last"] - published["begin"]
    return {
        "lost": got["lost"],
        "seconds": seconds,
        "deliveries_per_s": got["events"] / seconds,
        "p50_ms": got["p50_ms"],
        "p99_ms": got["p99_ms"],
    }


def events_of(network: Network, nats: str | None, *, count: int, events: int) -> Values:
    a, b = network.start("agent-a"), network.start("agent-b")
    found: Values = {
        "burst": fan_out(a, b, count=count, events=events, rate=0),
        "paced": fan_out(a, b, count=count, events=FEW, rate=RATE),
    }
    if nats is None:
        return found
    with tempfile.TemporaryDirectory() as directory:
        ports = Path(directory)
        server = subprocess.Popen(
            [nats, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(ports)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (files := list(ports.glob("*.ports"))):
                time.sleep(0.05)
            port = int(json.loads(files[0].read_text())["nats"][0].rpartition(":")[2])
            found["nats_burst"] = nats_fan_out(port, count=count, events=events, rate=0)
            found["nats_paced"] = nats_fan_out(port, count=count, events=FEW, rate=RATE)
        finally:
            server.terminate()
            server.wait()
    ours, theirs = found["burst"]["deliveries_per_s"], found["nats_burst"]["deliveries_per_s"]
    found["ratio_to_nats"] = ours / theirs
    return found


def show(results: dict[str, Values]) -> None:
    table = Table("what", "figure", "value")
    for what, values in results.items():
        for name, value in values.items():
            rows = value.items() if isinstance(value, dict) else [("", value)]
            for key, number in rows:
                label = f"{name} {key}".strip()
                table.add_row(what, label, f"{number:,.2f}" if number else "0")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sparse", type=int, default=0)
    parser.add_argument("--nats", default=shutil.which("nats-server"))
    parser.add_argument("--only", choices=["files", "events"])
    options = parser.parse_args()
    size = 300 * MB if options.quick else 1000 * MB
    scale = 200 if options.quick else 1000
    results: dict[str, Values] = {}
    if options.only != "events":
        with Network() as network, tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            results["files"] = files(
                network,
                Path(folder),
                size=size,
                rounds=1 if options.quick else 3,
                sparse=options.sparse,
            )
    if options.only != "files":
        with Network() as network:
            results["events"] = events_of(network, options.nats, count=scale, events=scale)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
