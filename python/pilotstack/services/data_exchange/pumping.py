"""Runs pumps in threads, so that cancelling the task ends the thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from pilotstack.services.data_exchange.pump import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.services.data_exchange.pump import Receiver, Sender

__all__ = ["run_pump"]

T = TypeVar("T")


async def run_pump(
    pump: Receiver | Sender, step: Callable[[], T], limiter: anyio.CapacityLimiter | None = None
) -> T:
    """What ``step`` returns, or raises. When this is cancelled, the thread is over.

    Args:
        pump: what is stopped then.
        step: runs in the thread.
        limiter: for threads.
    """
    found: list[T] = []
    failures: list[Exception] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_when_cancelled, pump)
        try:
            # Without abandon_on_cancel, this returns when the thread is over.
            found.append(await anyio.to_thread.run_sync(step, limiter=limiter))
        except Exception as error:
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        if isinstance(failures[0], Stopped):
            await anyio.lowlevel.checkpoint()
        raise failures[0]
    return found[0]


async def _stop_when_cancelled(pump: Receiver | Sender) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        pump.stop()
