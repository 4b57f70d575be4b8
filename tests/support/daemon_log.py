"""The log of a server that runs, as it grows."""

from __future__ import annotations

import json
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds for what takes a few at most; a router that speaks UPnP alone is asked last.
PATIENCE = 30


class Log:
    """Follows a log whose records are JSON."""

    def __init__(self, path: Path) -> None:
        path.touch()
        command = ["tail", "--lines=+1", "--follow", str(path)]
        self._tail = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.terminate()
        self._tail.wait()
        assert self._tail.stdout is not None
        self._tail.stdout.close()

    def wait_for(self, **members: str) -> dict[str, Any]:
        """The next record with these members."""
        end = time.monotonic() + PATIENCE
        stdout = self._tail.stdout
        assert stdout is not None
        while select.select([stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            record: dict[str, Any] = json.loads(stdout.readline())
            if members.items() <= record.items():
                return record
        raise AssertionError(f"the log has no record with {members}")
