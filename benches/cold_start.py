"""What a start costs beside that of a bare interpreter: commands, an import, an idle daemon.

Programs start in turn, so that whatever else the machine does hits all of them alike. Times are CPU
seconds of the process, the least of all rounds; a ratio tells more than either.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pilotstack.testing import Network

#: The most that a start may cost, as a multiple of the bare interpreter's.
BUDGETS = {"import pilotstack": 4.0, "pilotctl --version": 6.0, "pilotctl info": 6.0}
#: Megabytes of an idle daemon.
DAEMON_BUDGET = 42


def cost(command: list[str]) -> float:
    """CPU seconds of a process and its end."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.execv(command[0], command)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int, socket: Path) -> dict[str, float]:
    """The least cost of each program."""
    pilotctl = str(Path(sys.executable).with_name("pilotctl"))
    programs = {
        "bare interpreter": [sys.executable, "-c", "pass"],
        "import pilotstack": [sys.executable, "-c", "import pilotstack"],
        "pilotctl --version": [pilotctl, "--version"],
        "pilotctl info": [pilotctl, "--socket", str(socket), "info"],
    }
    costs: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            costs[name].append(cost(command))
    return {name: min(seconds) for name, seconds in costs.items()}


def resident(pid: int) -> float:
    """Megabytes of a process in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} is gone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with Network() as network:
        node = network.start("agent-a")
        costs = measure(arguments.rounds, Path(node.socket))
        memory = resident(node.pid)
    bare = costs["bare interpreter"]
    print(f"{'':<20} {'CPU ms':>8} {'x bare':>8} {'budget':>8}")
    for name, seconds in costs.items():
        budget = f"{BUDGETS[name]:>8.1f}" if name in BUDGETS else ""
        print(f"{name:<20} {seconds * 1000:>8.1f} {seconds / bare:>8.1f} {budget}")
    print(f"{'idle daemon, MB':<20} {memory:>8.1f} {'':>8} {DAEMON_BUDGET:>8}")


if __name__ == "__main__":
    main()
