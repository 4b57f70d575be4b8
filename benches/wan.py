"""Our controllers beside kernel TCP and QUIC over the same long, narrow and lossy paths.

``make bench-wan`` (as root) joins two network namespaces by ``pilot-lab``, runs every contender
over every path of the grid in one go, prints a table and writes JSON and SVG. ``--quick`` takes a
few paths only, ``--only 30,100,0.02`` (round trip in ms, Mbit/s, loss) one.

A figure is megabits of payload per second from the first octet on, slow start included. ``late`` is
that of the second half. Segments differ: ours carry 1,152 octets, TCP's 1,448; where loss sets the
pace, throughput is proportional to that, so the ratios say both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
LEFT, RIGHT = "pilot-left", "pilot-right"
LEFT_IP, RIGHT_IP = "10.77.1.1", "10.77.2.1"
OUR_SEGMENT, TCP_SEGMENT = 1152, 1448
CONTENDERS = ("reno", "cubic", "bbr", "tcp-cubic", "tcp-bbr", "quinn-cubic")
#: Seconds without a word from a receiver after which a run is over.
PATIENCE = 4.0
Samples = list[tuple[int, int]]


@dataclass(frozen=True)
class Route:
    """One path: round trip in ms, Mbit/s, and what else the lab does to packets."""

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
        """Octets in flight that fill the path."""
        return self.rate * 125 * max(self.rtt, 10)

    @property
    def spec(self) -> str:
        """The description for the lab; the queue holds one bandwidth-delay product."""
        return (
            f"delay={self.rtt * 500}us rate={self.rate}mbit queue={self.bdp} "
            f"loss={self.loss} {self.extra}"
        )

    @property
    def seconds(self) -> float:
        """Long enough for ten bandwidth-delay products and what leads up to them."""
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
    """Two namespaces and the router between them."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.devices = {LEFT: ("plab0", LEFT_IP), RIGHT: ("plab1", RIGHT_IP)}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        for namespace in self.devices:
            ip("netns", "add", namespace)
            self._stack.callback(ip, "netns", "delete", namespace)
        names = [device for device, _ in self.devices.values()]
        self.process = subprocess.Popen(
            [self.binary, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(self.process.wait)
        self._stack.callback(self.process.stdin.close)
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
        answer = self.process.stdout.readline().strip()
        if answer != "ok":
            raise SystemExit(f"the lab says {answer!r}")

    def set(self, path: Route) -> None:
        """Makes the router another path."""
        self.process.stdin.write(f"{path.spec}\n")
        self.process.stdin.flush()
        self._answer()


class Receiver:
    """A process that says how each stream it takes goes."""

    def __init__(self, command: list[str]) -> None:
        self.rest = b""
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        if self.process.stdout.readline().strip() != b"ready":
            raise SystemExit(f"{command} does not receive")

    def samples(self) -> Samples:
        """Nanoseconds and octets of the stream that ends next."""
        samples = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(PATIENCE):
                line = os.read(self.process.stdout.fileno(), 1 << 16)
                if not line:
                    raise SystemExit("a receiver ended")
                self.rest += line
                *lines, self.rest = self.rest.split(b"\n")
                for text in lines:
                    if text == b"end":
                        return samples
                    nanoseconds, octets = text.split()
                    samples.append((int(nanoseconds), int(octets)))
        # It was never reached, or its stream never ended: what arrived counts.
        return samples

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Arena:
    """Everybody who can send from left to right."""

    def __init__(self, stack: ExitStack, quic: Path | None) -> None:
        self.state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pilot-wan-")))
        self.quic = quic
        listen = ["--registry-addr", f"{LEFT_IP}:9000", "--beacon-addr", f"{LEFT_IP}:9001"]
        store = ["--store", str(self.state / "registry.json")]
        self._start(stack, "rendezvous", "rendezvous", LEFT, [*listen, *store])
        for name, namespace, address in (("a", LEFT, LEFT_IP), ("b", RIGHT, RIGHT_IP)):
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
        tcp = inside(RIGHT, *self._worker("tcp-receive", address=RIGHT_IP, port=5001))
        self.receivers = {"ours": Receiver(ours), "tcp": Receiver(tcp)}
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
        """Sends for so long, and returns what arrived when."""
        kind, _, congestion = contender.rpartition("-")
        if kind == "tcp":
            parameters = {"congestion": congestion, "seconds": seconds}
            command = self._worker("tcp-send", address=RIGHT_IP, port=5001, **parameters)
            command = inside(LEFT, *command)
        elif kind == "quinn":
            command = inside(LEFT, str(self.quic), "send", f"{RIGHT_IP}:5002", str(seconds))
        else:
            kind = "ours"
            path = str(self.state / "a.sock")
            parameters = {"congestion": congestion, "seconds": seconds}
            command = self._worker("ours-send", path=path, target="b:5001", **parameters)
        with ExitStack() as stack:
            if kind == "quinn":
                # A new one each time: one that sees a stray connection counts one stream too many.
                receiver = Receiver(inside(RIGHT, str(self.quic), "receive", f"{RIGHT_IP}:5002"))
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
    kept = [(at, octets) for at, octets in samples if at <= whole] or [(1, 0)]
    last_at, last = kept[-1]
    half = [(at, octets) for at, octets in kept if at <= whole // 2] or [(0, 0)]
    half_at, middle = half[-1]
    late = (last - middle) * 8e3 / max(last_at - half_at, 1)
    return last * 8e3 / max(whole, 1), late


def measure(
    paths: list[Route], contenders: list[str], binary: Path, quic: Path | None, out: Path | None
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(binary))
        arena = Arena(stack, quic)
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        task = progress.add_task("paths", total=len(paths) * len(contenders))
        for path in paths:
            figures: dict[str, tuple[float, float]] = {}
            for contender in contenders:
                progress.update(task, description=f"{path.name}: {contender}")
                lab.set(path)
                samples = arena.run(contender, path.seconds + path.rtt / 1000)
                figures[contender] = rates(samples, path.seconds)
                progress.advance(task)
            rows.append({"path": asdict(path), "name": path.name, "mbit_per_s": figures})
            if out is not None:
                # A run takes long; what was measured is kept when it is cut short.
                (out / "wan.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def shares(binary: Path) -> dict[str, float]:
    """What kernel CUBIC keeps of its fair half beside a flow of each of ours, 1 being fair: 100
    Mbit/s, 30 ms, a queue of one bandwidth-delay product, the second half of ten seconds."""
    kept = {}
    route, seconds = Route(30, 100, 0.0), 10.0
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(binary))
        arena = Arena(stack, None)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        for ours in ("reno", "cubic", "bbr"):
            lab.set(route)
            both = [pool.submit(arena.run, name, seconds) for name in (ours, "tcp-cubic")]
            late = [rates(run.result(), seconds)[1] for run in both]
            kept[ours] = 2 * late[1] / max(sum(late), 1e-9)
    return kept


def render(rows: list[dict[str, object]]) -> Table:
    table = Table(
        title=f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        "Mbit/s of payload (second half)"
    )
    table.add_column("path")
    names = list(rows[0]["mbit_per_s"])
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("cubic / kernel", justify="right")
    table.add_column("bbr / kernel", justify="right")
    for row in rows:
        figures = row["mbit_per_s"]
        cells = [f"{whole:.1f} ({late:.1f})" for whole, late in figures.values()]
        table.add_row(row["name"], *cells, ratio(figures, "cubic"), ratio(figures, "bbr"))
    return table


def ratio(figures: dict[str, tuple[float, float]], name: str) -> str:
    if name not in figures or f"tcp-{name}" not in figures:
        return ""
    plain = figures[name][0] / max(figures[f"tcp-{name}"][0], 1e-9)
    return f"{plain:.2f} ({plain * TCP_SEGMENT / OUR_SEGMENT:.2f})"


def plot(rows: list[dict[str, object]], directory: Path) -> None:
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
                ys = [max(row["mbit_per_s"][name][0], 0.01) for row in chosen]
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
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="some of them")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces and TUN devices need root")
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
        for name, share in shares(options.lab).items():
            Console().print(f"beside {name}, kernel CUBIC keeps {share:.2f} of its fair share")
        return
    rows = measure(paths, contenders, options.lab, options.quic, options.out)
    Console(width=200).print(render(rows))
    if options.out:
        plot(rows, options.out)


if __name__ == "__main__":
    main()
