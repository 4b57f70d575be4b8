"""Throughput of the registry and its growth with size, beside two reference measurements.

``make bench-registry`` prints tables; ``--json FILE`` writes the figures, ``--quick`` asks less.
Everything runs over loopback in separate processes. The yardsticks of the same run are the same
server without any sync, which shows what durability costs, and redis with ``appendfsync always``,
driven by the same load generator, which shows what this machine can do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from benches.registry_load import identity
from rich.console import Console
from rich.table import Table

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import Change, Node
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol.requests.identity import SetHostname
from pilotstack.registry.rules.dispatch import apply
from pilotstack.registry.server.server import RegistryServer
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.journal import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pilotstack.registry.model.state import State

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = (1, 64, 1000)
SIZES = (1_000, 10_000, 100_000)
#: Number of nodes, and heartbeat interval of each, seconds.
LIVE, INTERVAL = 100_000, 30.0
Values = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A process under load."""

    name: str
    dialect: str
    port: int
    pid: int

    def cpu(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benches.registry", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextmanager
def registry(path: Path, *, is_durable: bool = True) -> Iterator[Server]:
    """The real server on a store."""
    process = spawn("--serve", str(path), *([] if is_durable else ["--no-sync"]))
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield Server(
            "registry" if is_durable else "no sync", "registry", ready["port"], process.pid
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def redis(directory: Path) -> Iterator[Server | None]:
    """A redis server that syncs each write, if one is installed."""
    command = shutil.which("redis-server")
    if command is None:
        yield None
        return
    listen = ["--port", "7379", "--bind", "127.0.0.1", "--maxclients", "2000"]
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    process = subprocess.Popen(
        [command, *listen, *durable, "--dir", str(directory), "--loglevel", "warning"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port(7379)
        yield Server("redis", "redis", 7379, process.pid)
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def load(server: Server, kind: str, **params: object) -> Values:
    """Runs the load generator; adds the server's CPU time per request, microseconds."""
    params |= {"kind": kind, "host": "127.0.0.1", "port": server.port, "dialect": server.dialect}
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.registry_load", json.dumps(params)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    before = server.cpu()
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if process.wait() or not line:
        raise SystemExit("the load generator failed")
    values: Values = json.loads(line)
    values["cpu_seconds"] = server.cpu() - before
    return values


def preload(path: Path, count: int, *, has_keys: bool = True) -> None:
    """A snapshot of many nodes, with keys of the load generator or random ones."""
    store = FileStore(path)
    state = store.load(time.time())
    for node_id in range(1, count + 1):
        key = identity(node_id).public_key if has_keys else node_id.to_bytes(32)
        node = Node(
            node_id=node_id,
            public_key=key,
            endpoint=f"198.51.{node_id >> 8 & 255}.{node_id & 255}:4000",
            hostname=f"agent-{node_id}",
            version="1.0.0",
            is_signed=True,
            registered=1_800_000_000,
        )
        state.put("nodes", node_id, node)
    store.rotate()
    store.fold(snapshot.View(state))
    store.close()


def measure_requests(directory: Path, scale: float) -> Values:
    """Registrations and lookups per second, by server and number of connections."""
    found: Values = {}
    nodes = 10_000
    for is_durable in (True, False):
        path = directory / f"requests-{is_durable}.json"
        preload(path, nodes)
        with registry(path, is_durable=is_durable) as server:
            found[server.name] = drive(server, nodes, scale)
    with redis(directory) as server:
        if server is not None:
            load(server, "register", nodes=nodes, first=1, requests=nodes, connections=64)
            found["redis"] = drive(server, nodes, scale)
    return found


def drive(server: Server, nodes: int, scale: float) -> Values:
    found: Values = {}
    first = nodes + 1
    for connections in CONNECTIONS:
        count = int(scale * (1_000 if connections == 1 else 10_000))
        params = {"nodes": nodes, "requests": count, "connections": connections}
        found[f"register {connections}"] = load(server, "register", first=first, **params)
        first += count
    for connections in CONNECTIONS:
        count = int(scale * (5_000 if connections == 1 else 20_000))
        params = {"nodes": nodes, "requests": count, "connections": connections}
        found[f"lookup {connections}"] = load(server, "lookup", **params)
    return found


def measure_growth(directory: Path, scale: float) -> Values:
    """Cost of a write with that many nodes, and of a full snapshot.

    Batches of 64, as 64 busy connections make them.
    """
    found: Values = {}
    for size in SIZES:
        path = directory / f"growth-{size}.json"
        preload(path, size, has_keys=False)
        store = FileStore(path)
        state = store.load(time.time())
        batches = int(scale * 64)
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in range(batches):
            store.append(rename(state, batch))
        writes = 64 * batches
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        store.rotate()
        pause = time.perf_counter()
        view = snapshot.View(state)
        pause = time.perf_counter() - pause
        fold = time.perf_counter()
        store.fold(view)
        fold = time.perf_counter() - fold
        store.close()
        found[str(size)] = {
            "cpu_us": 1e6 * cpu / writes,
            "wall_us": 1e6 * wall / writes,
            "pause_ms": 1e3 * pause,
            "fold_s": fold,
        }
    return found


def rename(state: State, batch: int) -> list[Change]:
    """64 state-changing requests of the operator."""
    state.policy = Policy(admin_token="bench") if batch == 0 else state.policy
    source = Source("127.0.0.1", 1)
    changes: list[Change] = []
    for number in range(64):
        request = SetHostname(
            node_id=1 + number, hostname=f"renamed-{batch}-{number}", admin_token="bench"
        )
        changes += apply(state, request, source, 1_800_000_000.0).changes
    return changes


def measure_million(directory: Path, count: int) -> Values:
    """Memory and time of a registry that loads ``count`` nodes."""
    path = directory / "million.json"
    preload(path, count, has_keys=False)
    process = spawn("--load", str(path))
    assert process.stdout is not None
    values: Values = json.loads(process.stdout.readline())
    process.wait()
    return values | {"nodes": count, "file_mb": path.stat().st_size / 1e6}


def memory(name: str) -> float:
    """A memory figure of this process from /proc, megabytes."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(f"{name}:") + 1]) / 1024


def report_load(path: Path) -> None:
    """Loads a store in this process and prints time and memory."""
    before = memory("VmRSS")
    begin = time.perf_counter()
    store = FileStore(path)
    state = store.load(time.time())
    seconds = time.perf_counter() - begin
    resident, peak = memory("VmRSS"), memory("VmHWM")
    pause = time.perf_counter()
    view = snapshot.View(state)
    pause = time.perf_counter() - pause
    del view
    print(
        json.dumps(
            {
                "seconds": seconds,
                "resident_mb": resident,
                "peak_mb": peak,
                "empty_mb": before,
                "pause_ms": 1e3 * pause,
                "loaded": len(state.nodes),
            }
        ),
        flush=True,
    )


def measure_heartbeats(directory: Path, scale: float) -> Values:
    """CPU share of the heartbeats of many nodes, and the bytes that they write."""
    path = directory / "heartbeats.json"
    nodes = int(LIVE * scale)
    preload(path, nodes)
    with registry(path) as server:
        params = {"nodes": nodes, "connections": 1000}
        # The first heartbeat of each node is verified, later ones are cached.
        load(server, "heartbeat", first=1, requests=nodes, **params)
        seconds = 20 * scale
        written = sum(file.stat().st_size for file in directory.glob("heartbeats.json*"))
        pace = LIVE / INTERVAL
        requests = int(pace * seconds)
        found = load(server, "heartbeat", first=1, requests=requests, per_second=pace, **params)
        after = sum(file.stat().st_size for file in directory.glob("heartbeats.json*"))
    return {
        "per_second": found["per_second"],
        "core_share": found["cpu_seconds"] / found["seconds"],
        "p99_ms": found["p99_ms"],
        "bytes_written": after - written,
    }


def show(found: Values) -> None:
    console = Console()
    table = Table(title="Requests per second (p99 ms)", title_justify="left")
    servers = list(found["requests"])
    for name in ("", *servers):
        table.add_column(name, justify="left" if not name else "right")
    for ratio in ("of no sync", "of redis"):
        table.add_column(ratio, justify="right")
    for row in found["requests"]["registry"]:
        rates = {name: found["requests"][name][row] for name in servers}
        cells = [f"{rate['per_second']:,.0f} ({rate['p99_ms']:.1f})" for rate in rates.values()]
        ours = rates["registry"]["per_second"]
        ratios = [
            f"{ours / rates[name]['per_second']:.2f}" if name in rates else "-"
            for name in ("no sync", "redis")
        ]
        table.add_row(row, *cells, *ratios)
    console.print(table)
    if "redis" not in servers:
        console.print("redis-server is not installed, so there is no such yardstick")
    table = Table(title="One write beside so many nodes (batches of 64)", title_justify="left")
    for name in ("nodes", "CPU µs", "µs with sync", "pause of a view, ms", "snapshot, s"):
        table.add_column(name, justify="right")
    for size, row in found["growth"].items():
        figures = (row["cpu_us"], row["wall_us"], row["pause_ms"], row["fold_s"])
        table.add_row(f"{int(size):,}", *(f"{figure:.2f}" for figure in figures))
    console.print(table)
    million = found["million"]
    console.print(
        f"{million['nodes']:,} nodes: {million['file_mb']:.0f} MB of snapshot load in "
        f"{million['seconds']:.1f} s; {million['resident_mb']:.0f} MB resident "
        f"({million['peak_mb']:.0f} at most while loading); a view pauses "
        f"{million['pause_ms']:.0f} ms"
    )
    beats = found["heartbeats"]
    console.print(
        f"heartbeats of {LIVE:,} nodes every {INTERVAL:.0f} s ({beats['per_second']:,.0f}/s): "
        f"{100 * beats['core_share']:.1f} % of one core, {beats['bytes_written']} bytes written, "
        f"p99 {beats['p99_ms']:.1f} ms"
    )


async def serve(path: Path, *, is_durable: bool) -> None:
    store = FileStore(path, is_durable=is_durable)
    async with RegistryServer("127.0.0.1", 0, store) as server:
        print(json.dumps({"port": server.address[1]}), flush=True)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["requests", "growth", "million", "heartbeats"])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-sync", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        # As the command does: uvloop serves, if it is installed.
        options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
        is_durable = not arguments.no_sync
        anyio.run(lambda: serve(arguments.serve, is_durable=is_durable), backend_options=options)
        return
    if arguments.load:
        report_load(arguments.load)
        return
    scale = 0.2 if arguments.quick else 1.0
    # Not /tmp, which may be a tmpfs: syncs must reach a disk.
    with tempfile.TemporaryDirectory(prefix="bench-registry-", dir=Path.cwd()) as name:
        directory = Path(name)
        measures: dict[str, Callable[[], Values]] = {
            "requests": lambda: measure_requests(directory, scale),
            "growth": lambda: measure_growth(directory, scale),
            "million": lambda: measure_million(directory, int(1_000_000 * scale)),
            "heartbeats": lambda: measure_heartbeats(directory, scale),
        }
        if arguments.only:
            print(json.dumps(measures[arguments.only](), indent=1))
            return
        found = {name: measure() for name, measure in measures.items()}
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
