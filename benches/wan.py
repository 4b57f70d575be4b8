"""Our congestion controllers beside kernel TCP and QUIC over the same long, slow and lossy paths.

``make bench-wan`` (as root) joins pairs of network namespaces by ``pilot-lab``, runs every
contender over every path of the grid, prints a table and writes JSON and SVG. ``--quick`` takes a
few paths only, ``--only 30,100,0.02`` (round trip in ms, Mbit/s, loss) one.

A figure is megabits of payload per second from the first byte on, slow start included: the median
of several runs, which differ in what is lost; within a run the nth packet of every contender
meets the same fate. Contenders of a run go side by side, each over a router of its own, as many as
the processors can bear. Segments differ: ours carry 1,402 bytes, TCP's 1,448; where loss sets the
pace, throughput is proportional to that, so ratios are scaled by it.

Everything runs with real-time priority: a kernel's TCP does its work in interrupts whatever else
the machine is busy with, and a comparison should not measure that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import random
import selectors
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
LEFT_IP, RIGHT_IP = "10.77.1.1", "10.77.2.1"
#: Payload of a 1,500-byte packet of the lab, bytes.
OUR_SEGMENT, TCP_SEGMENT = 1402, 1448
#: Ports of kernel TCP receivers; the others are for two flows that share a path.
TCP_PORTS = {"tcp": 5001, "tcp2": 5003, "paced": 5004}
CONTENDERS = ("reno", "cubic", "bbr", "tcp-cubic", "tcp-bbr", "quinn-cubic")
#: Flows that share a path with kernel CUBIC.
SHARERS = ("reno", "cubic", "bbr", "tcp2-cubic", "paced-cubic", "tcp2-bbr")
#: Upper bound of concurrent load, Mbit/s; more would measure the CPUs.
BEARABLE = 250
#: Confidence level of the bootstrap interval.
CONFIDENCE = 0.9
#: Timeout without output of a receiver, seconds.
PATIENCE = 4.0
Samples = list[tuple[int, int]]


@dataclass(frozen=True)
class Route:
    """One path: RTT in ms, rate in Mbit/s, and further impairments."""

    rtt: int
    rate: int
    loss: float
    extra: str = ""

    @property
    def name(self) -> str:
        kind = self.extra.split("=")[0] if self.extra else f"{self.loss:.1%}"
        return f"{self.rtt} ms, {self.rate} Mbit/s, {kind}"

    @property
    def bdp(self) -> int:
        """Bandwidth-delay product, bytes."""
        return self.rate * 125 * max(self.rtt, 10)

    def spec(self, seed: int) -> str:
        """The description for the lab; the queue holds one bandwidth-delay product."""
        return (
            f"delay={self.rtt * 500}us rate={self.rate}mbit queue={self.bdp} "
            f"loss={self.loss} seed={seed} {self.extra}"
        )

    @property
    def is_random(self) -> bool:
        """Whether runs differ by random loss."""
        return self.loss > 0 or bool(self.extra)

    @property
    def seconds(self) -> float:
        """Duration for ten bandwidth-delay products and startup, seconds."""
        return max(2.5, 25 * self.rtt / 1000)


def grid() -> Iterator[Route]:
    for rtt in (1, 30, 100, 200):
        for loss in (0.0, 0.005, 0.02):
            for rate in (20, 100, 500):
                yield Route(rtt, rate, loss)
    yield Route(30, 100, 0.0, "burst=0.001,0.1,0.5")
    yield Route(30, 100, 0.0, "reorder=0.02,4ms")


QUICK = [
    Route(30, 100, 0.0),
    Route(30, 100, 0.005),
    Route(30, 100, 0.02),
    Route(100, 100, 0.0),
    Route(30, 100, 0.0, "burst=0.001,0.1,0.5"),
    Route(30, 100, 0.0, "reorder=0.02,4ms"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


class Lab:
    """Two namespaces and the router between them.

    Args:
        lane: tells it from others that exist at the same time.
    """

    def __init__(self, binary: Path, lane: int = 0) -> None:
        self.binary = binary
        self.left, self.right = f"pilot-left-{lane}", f"pilot-right-{lane}"
        devices = (f"plab{lane}l", LEFT_IP), (f"plab{lane}r", RIGHT_IP)
        self.devices = dict(zip((self.left, self.right), devices, strict=True))

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        for namespace in self.devices:
            ip("netns", "add", namespace)
            self._stack.callback(ip, "netns", "delete", namespace)
        names = [device for device, _ in self.devices.values()]
        self.process = subprocess.Popen(
            [self.binary, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._asks: IO[str] = self.process.stdin
        self._answers: IO[str] = self.process.stdout
        self._stack.callback(self.process.wait)
        self._stack.callback(self._asks.close)
        self._answer()
        for namespace, (device, address) in self.devices.items():
            ip("link", "set", device, "netns", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "address", "add", f"{address}/16", "dev", device)
            ip("-n", namespace, "link", "set", device, "txqueuelen", "20000", "up")
            for name in ("rmem", "wmem"):
                # As large as our windows may grow.
                setting = f"net.ipv4.tcp_{name}=4096 262144 67108864"
                command = inside(namespace, "sysctl", "-qw", setting)
                subprocess.run(command, check=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _answer(self) -> None:
        answer = self._answers.readline().strip()
        if answer != "ok":
            raise SystemExit(f"the lab says {answer!r}")

    def set(self, path: Route, seed: int) -> None:
        """Sets the path of the router."""
        self._asks.write(f"{path.spec(seed)}\n")
        self._asks.flush()
        self._answer()


class Receiver:
    """A receiver process that reports the progress of each stream."""

    def __init__(self, command: list[str]) -> None:
        self.rest = b""
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdout is not None
        self.output: IO[bytes] = self.process.stdout
        if self.output.readline().strip() != b"ready":
            raise SystemExit(f"{command} does not receive")

    def samples(self) -> Samples:
        """Nanoseconds and bytes of the stream that ends next."""
        samples: Samples = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            while selector.select(PATIENCE):
                line = os.read(self.output.fileno(), 1 << 16)
                if not line:
                    raise SystemExit("a receiver ended")
                self.rest += line
                *lines, self.rest = self.rest.split(b"\n")
                for text in lines:
                    if text == b"end":
                        return samples
                    nanoseconds, received = text.split()
                    samples.append((int(nanoseconds), int(received)))
        # The stream did not start or end: count what arrived.
        return samples

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Arena:
    """All senders from left to right in one lab."""

    def __init__(self, stack: ExitStack, lab: Lab, quic: Path | None) -> None:
        self.lab = lab
        self.state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pilot-wan-")))
        self.quic = quic
        listen = ["--registry-addr", f"{LEFT_IP}:9000", "--beacon-addr", f"{LEFT_IP}:9001"]
        store = ["--store", str(self.state / "registry.json")]
        self._start(stack, "rendezvous", "rendezvous", lab.left, [*listen, *store])
        for name, namespace, address in (("a", lab.left, LEFT_IP), ("b", lab.right, RIGHT_IP)):
            flags = [
                "--registry",
                f"{LEFT_IP}:9000",
                "--beacon",
                "",
                "--hostname",
                name,
                "--public",
            ]
            place = ["--listen", f"{address}:4000", "--endpoint", f"{address}:4000"]
            socket = ["--socket", str(self.state / f"{name}.sock")]
            self._start(stack, "daemon", name, namespace, [*flags, *place, *socket])
        ours = self._worker("ours-receive", path=str(self.state / "b.sock"), port=5001)
        self.receivers = {"ours": Receiver(ours)}
        for kind, port in TCP_PORTS.items():
            tcp = inside(lab.right, *self._worker("tcp-receive", address=RIGHT_IP, port=port))
            self.receivers[kind] = Receiver(tcp)
        for receiver in self.receivers.values():
            stack.callback(receiver.stop)

    def _start(
        self, stack: ExitStack, kind: str, name: str, namespace: str, flags: list[str]
    ) -> None:
        log = self.state / f"{name}.log"
        process = Process(kind, flags, log, prefix=inside(namespace))
        stack.callback(process.stop)

    def _worker(self, role: str, **parameters: object) -> list[str]:
        return [sys.executable, str(HERE / "wan_workers.py"), role, json.dumps(parameters)]

    def run(self, contender: str, seconds: float) -> Samples:
        """Sends for ``seconds`` and returns the arrival times and bytes."""
        kind, _, congestion = contender.rpartition("-")
        if kind in TCP_PORTS:
            parameters = {
                "congestion": congestion,
                "seconds": seconds,
                "is_paced": kind == "paced",
            }
            port = TCP_PORTS[kind]
            command = self._worker("tcp-send", address=RIGHT_IP, port=port, **parameters)
            command = inside(self.lab.left, *command)
        elif kind == "quinn":
            command = inside(
                self.lab.left, str(self.quic), "send", f"{RIGHT_IP}:5002", str(seconds)
            )
        else:
            kind = "ours"
            path = str(self.state / "a.sock")
            parameters = {"congestion": congestion, "seconds": seconds}
            command = self._worker("ours-send", path=path, target="b:5001", **parameters)
        with ExitStack() as stack:
            if kind == "quinn":
                # A new one each time: one that sees a stray connection counts one stream too many.
                listen = [str(self.quic), "receive", f"{RIGHT_IP}:5002"]
                receiver = Receiver(inside(self.lab.right, *listen))
                stack.callback(receiver.stop)
            else:
                receiver = self.receivers[kind]
            sender = subprocess.Popen(command)
            stack.callback(end, sender)
            return receiver.samples()


def end(process: subprocess.Popen[bytes]) -> None:
    """Waits for a process, and kills one that does not end."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def rates(samples: Samples, seconds: float) -> tuple[float, float]:
    """Mbit/s of the whole time and of its second half."""
    whole = int(seconds * 1e9)
    kept = [(at, received) for at, received in samples if at <= whole] or [(1, 0)]
    last_at, last = kept[-1]
    half = [(at, received) for at, received in kept if at <= whole // 2] or [(0, 0)]
    half_at, middle = half[-1]
    late = (last - middle) * 8e3 / max(last_at - half_at, 1)
    return last * 8e3 / max(whole, 1), late


Figures = dict[str, list[tuple[float, float]]]


class Lanes:
    """Labs that run in parallel."""

    def __init__(self, stack: ExitStack, count: int, binary: Path, quic: Path | None) -> None:
        self._free: queue.Queue[Arena] = queue.Queue()
        for lane in range(count):
            lab = stack.enter_context(Lab(binary, lane))
            self._free.put(Arena(stack, lab, quic))

    def run(self, path: Route, contender: str, seed: int) -> tuple[float, float]:
        """Waits for a free lab; Mbit/s of the whole time and of its second half."""
        arena = self._free.get()
        try:
            arena.lab.set(path, seed)
            samples = arena.run(contender, path.seconds + path.rtt / 1000)
        finally:
            self._free.put(arena)
        return rates(samples, path.seconds)


def measure(
    paths: list[Route], contenders: list[str], runs: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        lanes = Lanes(stack, len(contenders), arguments.lab, arguments.quic)
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        # Without losses runs hardly differ.
        plan = [(path, runs if path.is_random else min(runs, 3)) for path in paths]
        total = sum(count for _, count in plan) * len(contenders)
        task = progress.add_task("paths", total=total)
        for path, count in plan:
            progress.update(task, description=path.name)
            figures: Figures = {name: [] for name in contenders}
            width = min(len(contenders), max(1, BEARABLE // path.rate))
            with ThreadPoolExecutor(width) as pool:
                # In step: whoever runs beside whom changes from run to run.
                for seed in range(1, count + 1):
                    turn = seed % len(contenders)
                    order = contenders[turn:] + contenders[:turn]
                    pending = {name: pool.submit(lanes.run, path, name, seed) for name in order}
                    for name, result in pending.items():
                        figures[name].append(result.result())
                        progress.advance(task)
            rows.append({"path": asdict(path), "name": path.name, "mbit_per_s": figures})
            if arguments.out is not None:
                # A run takes long; what was measured is kept when it is cut short.
                (arguments.out / "wan.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def shares(binary: Path, runs: int) -> dict[str, list[float]]:
    """What kernel CUBIC keeps of its fair half beside a flow of each of ours and beside others of
    the kernel's, 1 being fair, in each run: 100 Mbit/s, 30 ms, a queue of one bandwidth-delay
    product, the second half of half a minute. Each begins first in every other run."""
    kept: dict[str, list[float]] = {name: [] for name in SHARERS}
    # Two packet times of noise: without it the flow that answers a moment later than the other
    # finds room in a full queue each time, and the other never does.
    route, seconds = Route(30, 100, 0.0, "noise=240us"), 30.0
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(binary))
        arena = Arena(stack, lab, None)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        for seed in range(1, runs + 1):
            for name in SHARERS:
                lab.set(route, seed)
                order = (name, "tcp-cubic") if seed % 2 else ("tcp-cubic", name)
                both = {flow: pool.submit(arena.run, flow, seconds) for flow in order}
                late = {flow: rates(run.result(), seconds)[1] for flow, run in both.items()}
                kept[name].append(2 * late["tcp-cubic"] / max(sum(late.values()), 1e-9))
    return kept


def show_shares(kept: dict[str, list[float]], directory: Path | None) -> None:
    names = {
        "tcp2-cubic": "another kernel CUBIC",
        "paced-cubic": "a paced kernel CUBIC",
        "tcp2-bbr": "kernel BBR",
    }
    for name, found in kept.items():
        middle, low, high = statistics.median(found), min(found), max(found)
        Console().print(
            f"beside {names.get(name, name)}, kernel CUBIC keeps {middle:.2f} of its fair share "
            f"(runs: {low:.2f}\u2013{high:.2f})"
        )
    if directory:
        (directory / "shares.json").write_text(json.dumps(kept, indent=1) + "\n")


def median(figures: Figures, name: str, which: int = 0) -> float:
    return statistics.median(run[which] for run in figures[name])


def render(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Mbit/s "
        "of payload (second half), medians; ratios scaled by the segment's size, with the interval "
        f"that holds {CONFIDENCE:.0%} of resampled ones"
    )
    table.add_column("path")
    names = list(rows[0]["mbit_per_s"])
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("cubic / kernel", justify="right")
    table.add_column("bbr / kernel", justify="right")
    for row in rows:
        figures = row["mbit_per_s"]
        cells = [f"{median(figures, name):.1f} ({median(figures, name, 1):.1f})" for name in names]
        table.add_row(
            row["name"], *cells, verdict(figures, "cubic", 1.0), verdict(figures, "bbr", 1 / 1.1)
        )
    return table


def ratio(figures: Figures, name: str) -> tuple[float, float, float] | None:
    """Ours by the kernel's, scaled by the segments' sizes: of the medians, and the bounds of the
    interval that resampled medians have."""
    peer = f"tcp-{name}"
    if name not in figures or peer not in figures:
        return None
    scale = TCP_SEGMENT / OUR_SEGMENT
    ours, theirs = ([run[0] for run in figures[which]] for which in (name, peer))
    draw = random.Random(1)
    drawn = sorted(
        statistics.median(draw.choices(ours, k=len(ours)))
        / max(statistics.median(draw.choices(theirs, k=len(theirs))), 1e-9)
        for _ in range(1000)
    )
    outside = int(len(drawn) * (1 - CONFIDENCE) / 2)
    of_medians = statistics.median(ours) / max(statistics.median(theirs), 1e-9)
    return scale * of_medians, scale * drawn[outside], scale * drawn[-1 - outside]


def verdict(figures: Figures, name: str, goal: float) -> str:
    """The ratio, marked if it is significantly below the goal."""
    found = ratio(figures, name)
    if found is None:
        return ""
    middle, low, high = found
    mark = " [red]below[/]" if high < goal else ""
    return f"{middle:.2f} ({low:.2f}\u2013{high:.2f}){mark}"


def plot(rows: list[dict[str, Any]], directory: Path) -> None:
    """One SVG per rate: throughput over the round trip, a panel for each loss."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    plain = [row for row in rows if not row["path"]["extra"]]
    for rate in sorted({row["path"]["rate"] for row in plain}):
        losses = sorted({row["path"]["loss"] for row in plain if row["path"]["rate"] == rate})
        figure, panels = pyplot.subplots(1, len(losses), figsize=(4.5 * len(losses), 3.6))
        for panel, loss in zip([panels] if len(losses) == 1 else panels, losses, strict=True):
            chosen = [r for r in plain if (r["path"]["rate"], r["path"]["loss"]) == (rate, loss)]
            for name in chosen[0]["mbit_per_s"]:
                xs = [row["path"]["rtt"] for row in chosen]
                ys = [max(median(row["mbit_per_s"], name), 0.01) for row in chosen]
                style = "-" if name in {"reno", "cubic", "bbr"} else "--"
                panel.plot(xs, ys, style, marker="o", markersize=3, label=name)
            panel.set(title=f"{rate} Mbit/s, {loss:.1%} loss", xlabel="round trip, ms")
            panel.set(xscale="log", yscale="log", ylabel="Mbit/s")
            panel.grid(visible=True, alpha=0.3)
        figure.legend(*panel.get_legend_handles_labels(), loc="lower center", ncols=6)
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        figure.savefig(directory / f"wan-{rate}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, required=True, help="the pilot-lab binary")
    parser.add_argument("--quic", type=Path, help="the quic-peer binary; without it no QUIC")
    parser.add_argument("--out", type=Path, help="directory for JSON and SVG")
    parser.add_argument("--quick", action="store_true", help="a few paths")
    parser.add_argument("--only", help="one path: round trip in ms, Mbit/s, loss")
    parser.add_argument("--rtts", help="only these round trips of the grid, ms")
    parser.add_argument("--rates", help="only these rates of the grid, Mbit/s")
    parser.add_argument("--shares", action="store_true", help="fairness to kernel CUBIC instead")
    parser.add_argument("--runs", type=int, default=5, help="of each cell")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="some of them")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces and TUN devices need root")
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    paths = QUICK if options.quick else list(grid())
    for name, kept in (("rtt", options.rtts), ("rate", options.rates)):
        if kept:
            paths = [path for path in paths if str(getattr(path, name)) in kept.split(",")]
    if options.only:
        rtt, rate, loss = options.only.split(",")
        paths = [Route(int(rtt), int(rate), float(loss))]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    contenders = options.contenders.split(",")
    if options.quic is None:
        contenders = [name for name in contenders if not name.startswith("quinn")]
    if options.shares:
        show_shares(shares(options.lab, options.runs), options.out)
        return
    rows = measure(paths, contenders, options.runs, options)
    Console(width=240).print(render(rows))
    if options.out:
        plot(rows, options.out)


if __name__ == "__main__":
    main()
