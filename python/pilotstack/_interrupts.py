"""What Ctrl-C does to a command while it is still importing, or has ended already."""

from __future__ import annotations

import signal


def end_process() -> None:
    """SIGINT ends the process as it ends any program, without a traceback, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_exception() -> None:
    """SIGINT raises :exc:`KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
