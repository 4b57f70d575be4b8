"""The relay of a beacon beside a plain UDP forwarder, and a thin flow beside greedy ones.

``make bench-relay`` prints a table; ``--json FILE`` writes the figures, ``--rounds N`` repeats. The
beacon and the forwarder run on one core, the load on another, over loopback, in the same run and in
turns. Both receive and send in batches (recvmmsg, GRO, GSO). Packets are counted where they arrive,
and per second of the core's time that the process used, which does not depend on how much of the
core it got. As root, the thin flow's process goes before the load on its core, so that its delays
are those of the relay.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
#: Bytes of a frame: a segment that fits every path, with its headers.
FRAME = 1231 - 9
FLOWS = 64
BOUND_PACKETS = 300_000
BOUND_SHARE = 0.7
BOUND_DELAY = 2.0


@dataclass(frozen=True)
class Throughput:
    """What went through one process."""

    packets_per_second: float
    packets_per_core_second: float
    core_share: float
    #: Of the flows, the least over the most.
    fairness: float


@dataclass(frozen=True)
class Delay:
    """The thin flow."""

    p50_us: float
    p99_us: float
    lost: int


def pinned(core: int, command: Sequence[str], *, is_first: bool = False) -> list[str]:
    first = ["chrt", "-f", "10"] if is_first and os.geteuid() == 0 else []
    return ["taskset", "-c", str(core), *first, *command]


@contextmanager
def serving(core: int, command: Sequence[str]) -> Iterator[tuple[int, str]]:
    """A server on a core, until the end; its pid and its first line."""
    with subprocess.Popen(pinned(core, command), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, process.stdout.readline()
        finally:
            process.kill()


def free_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Bench:
    """One set of programs and cores."""

    def __init__(self, examples: Path, seconds: float) -> None:
        self._load = str(examples / "relay_load")
        self._forwarder = str(examples / "udp_forwarder")
        self._seconds = seconds

    def _run(self, *arguments: str, is_first: bool = False) -> Any:
        done = subprocess.run(
            pinned(1, [self._load, *arguments], is_first=is_first),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def _flood(self, pid: int, target: str) -> Throughput:
        before, begin = cpu_seconds(pid), time.monotonic()
        found = self._run("flood", target, str(FLOWS), str(FRAME), str(self._seconds))
        used, elapsed = cpu_seconds(pid) - before, time.monotonic() - begin
        flows = found["flows"]
        return Throughput(
            packets_per_second=found["received"] / found["seconds"],
            packets_per_core_second=found["received"] / max(used, 1 / TICKS),
            core_share=used / elapsed,
            fairness=min(flows) / max(max(flows), 1),
        )

    def forwarder(self) -> Throughput:
        """The plain forwarder."""
        sink = free_address()
        with serving(0, [self._forwarder, "127.0.0.1:0", sink]) as (pid, line):
            return self._flood(pid, f"plain:{line.strip()}@{sink}")

    def relay(self) -> Throughput:
        """The beacon."""
        with self._serving_beacon() as (pid, address):
            return self._flood(pid, address)

    @contextmanager
    def _serving_beacon(self) -> Iterator[tuple[int, str]]:
        command = [
            *(sys.executable, "-c", "from pilotstack.beacon.main import run; run()"),
            *("--listen", "127.0.0.1:0"),
        ]
        with serving(0, command) as (pid, line):
            yield pid, json.loads(line)["beacon"]

    def thin(self, packets: int, *, has_load: bool) -> Delay:
        """The thin flow, alone or beside the greedy ones."""
        with self._serving_beacon() as (_, address):
            if not has_load:
                return Delay(**self._run("thin", address, str(packets), "1000", is_first=True))
            seconds = packets / 1000 * 1.5 + 2
            flood = [self._load, "flood", address, str(FLOWS), str(FRAME), str(seconds)]
            with subprocess.Popen(pinned(1, flood), stdout=subprocess.DEVNULL) as load:
                time.sleep(0.5)
                found = Delay(**self._run("thin", address, str(packets), "1000", is_first=True))
                load.kill()
            return found


def build() -> Path:
    names = [f"--example={name}" for name in ("relay_load", "udp_forwarder")]
    command = ["cargo", "build", "--release", "--quiet", "-p", "pilot-net", *names]
    subprocess.run(command, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):,.0f} to {max(values):,.0f}"


def measure(bench: Bench, rounds: int, packets: int) -> dict[str, Any]:
    rows: dict[str, list[Any]] = {"forwarder": [], "relay": [], "alone": [], "beside": []}
    for _ in range(rounds):
        rows["forwarder"].append(bench.forwarder())
        rows["relay"].append(bench.relay())
        rows["alone"].append(bench.thin(packets, has_load=False))
        rows["beside"].append(bench.thin(packets, has_load=True))
    return rows


def show(rows: dict[str, list[Any]]) -> bool:
    """Prints the table, and returns whether the bounds hold."""
    relay = [row.packets_per_core_second for row in rows["relay"]]
    plain = [row.packets_per_core_second for row in rows["forwarder"]]
    alone = [row.p99_us for row in rows["alone"]]
    beside = [row.p99_us for row in rows["beside"]]
    share = median(relay) / median(plain)
    ratio = median(beside) / median(alone)
    table = Table("what", "median", "least to most", "bound")
    table.add_row(
        "plain forwarder, packets/s of a core", f"{median(plain):,.0f}", spread(plain), ""
    )
    table.add_row(
        "relay, packets/s of a core", f"{median(relay):,.0f}", spread(relay), f"≥ {BOUND_PACKETS:,}"
    )
    table.add_row("relay over forwarder", f"{share:.2f}", "", f"≥ {BOUND_SHARE}")
    wall = [row.packets_per_second for row in rows["relay"]]
    table.add_row("relay, packets/s by the clock", f"{median(wall):,.0f}", spread(wall), "")
    fairness = [row.fairness for row in rows["relay"]]
    table.add_row("least flow over greatest", f"{median(fairness):.2f}", "", "")
    table.add_row("thin flow alone, p99 µs", f"{median(alone):,.0f}", spread(alone), "")
    table.add_row(f"beside {FLOWS} greedy ones", f"{median(beside):,.0f}", spread(beside), "")
    table.add_row("ratio", f"{ratio:.2f}", "", f"≤ {BOUND_DELAY}")
    lost = sum(row.lost for row in rows["beside"])
    table.add_row("packets of it lost", f"{lost}", "", "")
    Console().print(table)
    return median(relay) >= BOUND_PACKETS and share >= BOUND_SHARE and ratio <= BOUND_DELAY


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each flood")
    parser.add_argument("--packets", type=int, default=2000, help="of the thin flow")
    parser.add_argument("--examples", type=Path, help="programs that are built already")
    options = parser.parse_args()
    bench = Bench(options.examples or build(), options.seconds)
    rows = measure(bench, options.rounds, options.packets)
    if options.json:
        figures = {name: [asdict(row) for row in found] for name, found in rows.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    raise SystemExit(0 if show(rows) else 1)


if __name__ == "__main__":
    main()
