"""Programs of ours as a supervisor runs them, with an environment that a test chooses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
TIMEOUT = 40


def environment(**more: str) -> dict[str, str]:
    """Ours without what says where files and servers are."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PILOT_") and name not in {"HOME", "XDG_RUNTIME_DIR"}
    }
    return kept | more


def run(
    program: str, *arguments: object, env: dict[str, str], prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        [*prefix, BIN / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=env,
    )


def spawn(
    program: str, *arguments: object, env: dict[str, str], **options: Any
) -> subprocess.Popen[str]:
    """Starts a program; what it prints can be read."""
    return subprocess.Popen(
        [BIN / program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **options,
    )
