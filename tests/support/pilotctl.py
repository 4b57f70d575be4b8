"""``pilotctl`` as a person types it: one run as a text that a test can hold against what it should
be. What differs from run to run (addresses, times, keys, directories) is replaced by its name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack.testing import Network

_COMMAND = Path(sys.executable).with_name("pilotctl")
#: What is different in each run, and what stands for it. Replacements keep no width, so tables
#: lose the blanks that pad a cell beside them.
_VARIABLE = (
    (r"/\S*/pilot-[A-Za-z0-9_]{8}", "[dir]"),
    (r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=", "[key]"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "[time]"),
    (r"127\.0\.0\.1:\d{4,5}\b", "[endpoint]"),
    (r"\b[12]\d{9}(\.\d+)?\b", "[unix]"),
)


@dataclass(frozen=True)
class Pilotctl:
    """Runs commands with the environment of one agent.

    Args:
        environment: ``PILOT_`` variables of that agent.
        replaced: more patterns and what stands for them.
    """

    environment: dict[str, str]
    replaced: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def of(cls, network: Network, name: str) -> Pilotctl:
        """The commands of one agent of an embedded network."""
        socket = str(network.path / f"{name}.sock")
        home = network.path / f"{name}.home"
        home.mkdir(exist_ok=True)
        return cls(
            {
                "PILOT_SOCKET": socket,
                "PILOT_REGISTRY": network.registry,
                "PILOT_HOME": str(home),
            }
        )

    def with_environment(self, **variables: str) -> Pilotctl:
        """The same with more variables."""
        return replace(self, environment=self.environment | variables)

    def run(self, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command whose output is 100 columns wide and has no colours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        look = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [_COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=50,
            env=kept | look | self.environment,
        )

    def __call__(self, *arguments: object, stdin: str = "") -> str:
        """What a command shows: its output, its errors, and its exit code unless that is 0."""
        result = self.run(*arguments, stdin=stdin)
        parts = [self.steady(result.stdout)]
        if result.stderr:
            parts.append("--- stderr ---\n" + self.steady(result.stderr))
        if result.returncode:
            parts.append(f"--- exit {result.returncode} ---\n")
        return "".join(parts)

    def table(self, *arguments: object) -> str:
        """As a person at a terminal sees it."""
        return self("--no-json", *arguments)

    def steady(self, text: str) -> str:
        """The text without what differs from run to run."""
        for pattern, name in (*self.replaced, *_VARIABLE):
            text = re.sub(pattern, name, text)
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())
