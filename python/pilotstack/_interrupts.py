"""SIGINT before a command handles it, and after it has ended."""

from __future__ import annotations

import signal


def end_process() -> None:
    """Gives SIGINT its default action, which ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_exception() -> None:
    """Lets SIGINT raise :exc:`KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
