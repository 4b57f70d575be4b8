"""Many trials, a few at a time, with their progress shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from tests.lab import trial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from tests.lab.trial import Pair, Result


async def run_all(
    pairs: Sequence[Pair],
    lab: Path | None,
    *,
    side_by_side: int,
    report: Callable[[Result], None],
    run: Callable[[Pair, Path | None], Awaitable[Result]] = trial.run,
) -> list[Result]:
    """Tries all pairs; results come in the order of the pairs.

    Args:
        side_by_side: trials at a time; each mostly waits.
        report: called for each result when it is there.
        run: what tries a pair.
    """
    results: dict[int, Result] = {}
    limiter = anyio.CapacityLimiter(side_by_side)

    async def one(index: int, pair: Pair) -> None:
        async with limiter:
            results[index] = await run(pair, lab)
            report(results[index])

    async with anyio.create_task_group() as tasks:
        for index, pair in enumerate(pairs):
            tasks.start_soon(one, index, pair)
    return [results[index] for index in sorted(results)]
