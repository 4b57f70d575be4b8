"""Throughput, latency and size of the whole stack, beside reference measurements, in one run.

``make bench`` prints a table; ``--json FILE`` writes the figures, ``--quick`` moves less data.
Everything runs over loopback in separate processes: a rendezvous, two daemons, one process per
application. Yardsticks of the same run: the bare pipe (seal, CRC, GSO, GRO and open without any
protocol), kernel TCP, and AES-256-GCM on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pilotstack.testing import Network, Node

HERE = Path(__file__).parent
MB = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")
Values = dict[str, Any]


class Worker:
    """A load generator process; results are its JSON lines."""

    def __init__(self, role: str, **params: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "workers.py"), role, json.dumps(params, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self) -> Values:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a load generator ended with status {self.process.wait()}")
        values: Values = json.loads(line)
        return values

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Usage:
    """CPU seconds and resident bytes of a process, from /proc."""

    cpu_seconds: float
    rss_bytes: int
    switches: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        switches = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
        cpu = (int(fields[11]) + int(fields[12])) / TICKS
        return cls(cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), switches)


def stream_throughput(a: Node, b: Node, *, streams: int, size: int, framed: bool = False) -> Values:
    """App to app, one direction; ``size`` bytes in all."""
    port = 5000 + streams + 100 * framed
    before = [Usage.of(node.pid) for node in (a, b)]
    common = {"port": port, "streams": streams, "framed": framed}
    sink = Worker("sink", socket=b.socket, **common)
    sink.result()
    source = Worker("source", socket=a.socket, address=b.address, bytes=size // streams, **common)
    got = sink.result()
    source.result()
    after = [Usage.of(node.pid) for node in (a, b)]
    cpu = sum(n.cpu_seconds - o.cpu_seconds for n, o in zip(after, before, strict=True))
    for worker in (sink, source):
        worker.stop()
    assert got["bytes"] == size // streams * streams, got
    rate = got["bytes"] / got["seconds"] / MB
    return {"mb_per_s": rate, "daemon_cpu_s_per_gb": cpu / (got["bytes"] / 1e9)}


def one(role: str, **params: object) -> Values:
    worker = Worker(role, **params)
    values = worker.result()
    worker.stop()
    if "bytes" in values:
        values["mb_per_s"] = values["bytes"] / values["seconds"] / MB
    return values


def kernel_tcp(size: int) -> Values:
    sink = Worker("tcp_sink")
    source = Worker("tcp_source", port=sink.result()["port"], bytes=size)
    got = sink.result()
    source.stop()
    sink.stop()
    return {"mb_per_s": got["bytes"] / got["seconds"] / MB}


def bare_pipe(size: int, segment: int) -> Values:
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
    binary = target / "release" / "examples" / "bare_pipe"
    output = subprocess.run(
        [binary, "--bytes", str(size), "--segment", str(segment)],
        check=True,
        capture_output=True,
        text=True,
    )
    values: Values = json.loads(output.stdout)
    return values


def idle(node: Node, peer: Node, connections: int) -> Values:
    """Resident memory and wake-ups of an idle daemon, then memory per idle connection."""
    start = Usage.of(node.pid)
    began = time.perf_counter()
    time.sleep(10)
    end = Usage.of(node.pid)
    wakeups = (end.switches - start.switches) / (time.perf_counter() - began)
    holder = Worker("hold", socket=node.socket, address=peer.address, count=connections)
    holder.result()
    both = [Usage.of(n.pid).rss_bytes for n in (node, peer)]
    holder.stop()
    return {
        "rss_mb": end.rss_bytes / MB,
        "wakeups_per_s": wakeups,
        "dialer_kib_per_connection": (both[0] - end.rss_bytes) / connections / 1024,
        "connections": connections,
    }


def measure(quick: bool) -> dict[str, Values]:
    size = 256 * MB if quick else 2000 * MB
    results: dict[str, Values] = {}
    with Network() as network:
        a, b = network.start("agent-a"), network.start("agent-b")
        results["idle daemon"] = idle(a, b, 200 if quick else 1000)
        results["1 stream"] = stream_throughput(a, b, streams=1, size=size)
        results["bare pipe, 4096"] = bare_pipe(size, 4096)
        results["1 stream again"] = stream_throughput(a, b, streams=1, size=size)
        results["8 streams"] = stream_throughput(a, b, streams=8, size=size)
        to_b = {"socket": a.socket, "address": b.address}
        results["echo throughput"] = one("echo_throughput", **to_b, bytes=size // 4)
        results["echo round trip"] = one("echo_latency", **to_b, size=64, count=5000)
        results["dial"] = one("dial_latency", **to_b, count=1000)
        results["1,000 parallel dials"] = one("parallel_dials", **to_b, count=1000)
        results["1 stream, framed"] = stream_throughput(
            a, b, streams=1, size=size // 4, framed=True
        )
        results["echo round trip, framed"] = one(
            "echo_latency", **to_b, size=64, count=2000, framed=True
        )
    results["bare pipe, 1152"] = bare_pipe(size, 1152)
    results["kernel TCP, loopback"] = kernel_tcp(size)
    results["AES-256-GCM, 4096, one core"] = one("aes_gcm", size=4096, bytes=size // 2)
    best = max(results["1 stream"]["mb_per_s"], results["1 stream again"]["mb_per_s"])
    results["share of the bare pipe"] = {"ratio": best / results["bare pipe, 4096"]["mb_per_s"]}
    return results


def render(results: dict[str, Values]) -> Table:
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} cores, loopback")
    table.add_column("what")
    table.add_column("figures")
    units = {
        "mb_per_s": "{:,.0f} MB/s",
        "daemon_cpu_s_per_gb": "{:.2f} CPU s/GB in both daemons",
        "p50_us": "p50 {:.0f} µs",
        "p99_us": "p99 {:.0f} µs",
        "rss_mb": "{:.1f} MB resident",
        "wakeups_per_s": "{:.1f} wake-ups/s",
        "dialer_kib_per_connection": "{:.1f} KiB per idle connection",
        "ratio": "{:.0%}",
        "seconds": "{:.2f} s",
        "connected": "{} connected",
        "correct": "{} correct",
    }
    for name, values in results.items():
        shown = [form.format(values[key]) for key, form in units.items() if key in values]
        table.add_row(name, ", ".join(shown))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="move less data")
    options = parser.parse_args()
    results = measure(options.quick)
    Console().print(render(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
