"""Open descriptors of processes.

A process closes what a finished connection left on its own time: whoever waits
for the end of an exchange may still find the last one open. Tests therefore wait
for a number, and a leak is a number that is never reached.
"""

import gc
import os
import time

#: Seconds that a process has to close what it no longer needs.
_PATIENCE = 30.0


def descriptors(pid: int | None = None) -> int:
    """How many the process ``pid`` has open, this process without one."""
    if pid is None:
        gc.collect()
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def wait_for_descriptors(at_most: int, pid: int | None = None) -> None:
    """Returns once the process ``pid`` has no more open than ``at_most``.

    Blocks: for processes and threads beside the caller's event loop.
    """
    end = time.monotonic() + _PATIENCE
    while (count := descriptors(pid)) > at_most:
        assert time.monotonic() < end, f"{count} descriptors are open, {at_most} expected"
