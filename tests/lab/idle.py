"""What two agents behind NATs send while they have nothing to say, and whether they still reach
each other afterwards."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from tests.lab.figures import Figure
from tests.lab.timeline import PATIENCE, Timeline, watch
from tests.lab.trial import Echo, Pair, scene

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.lab.trial import Scene

    from pilotstack import Stream

_PORT = 2003
#: Seconds of silence that are watched, and those after the last stream that are not.
_WATCHED, _SETTLING = 60.0, 30.0
#: Seconds for which bindings live where they are short; a keepalive of 25 s comes too late.
_SHORT = 15


@asynccontextmanager
async def _met(pair: Pair, lab: Path | None) -> AsyncIterator[tuple[Scene, Driver, Stream]]:
    """Two agents with a stream on a direct path."""
    async with (
        scene(pair, lab) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
        await b.listen(_PORT) as listener,
        anyio.create_task_group() as tasks,
    ):
        timeline = Timeline()
        tasks.start_soon(listener.serve, Echo(timeline))
        async with await a.dial(f"agent-b:{_PORT}", timeout=PATIENCE) as stream:
            async with anyio.create_task_group() as watching:
                watching.start_soon(watch, a, made.nodes[1].node_id, timeline)
                with anyio.fail_after(PATIENCE):
                    await timeline.until(is_relayed=False)
                watching.cancel_scope.cancel()
            yield made, a, stream
        tasks.cancel_scope.cancel()


async def count_keepalives(pair: Pair, lab: Path | None) -> list[Figure]:
    """Counts datagrams between two agents, with an open stream and without any."""
    async with _met(pair, lab) as (made, _, stream):
        internet = made.internet
        first, second = (site.outside for site in made.sites)
        await _pass(_SETTLING)
        await to_thread.run_sync(internet.count, first, second)
        await _pass(_WATCHED)
        active = max(await to_thread.run_sync(lambda: internet.counted))
        await stream.aclose()
        await _pass(_SETTLING)
        before = await to_thread.run_sync(lambda: internet.counted)
        await _pass(_WATCHED)
        after = await to_thread.run_sync(lambda: internet.counted)
    inactive = max(late - early for late, early in zip(after, before, strict=True))
    return [
        Figure(
            f"idle, to a peer {what}: datagrams a minute", str(bound), str(count), count <= bound
        )
        for what, bound, count in (
            ("with an open stream", 4, active),
            ("without a stream", 0, inactive),
        )
    ]


async def outlive_bindings(pair: Pair, lab: Path | None) -> Figure:
    """Is silent for longer than the NATs remember, then sends a byte on an open stream."""
    async with _met(pair, lab) as (made, _, stream):
        for site in made.sites:
            if site.home is not None:
                await to_thread.run_sync(site.home.remember, _SHORT)
        await _pass(3 * _SHORT)
        began = time.perf_counter()
        with anyio.fail_after(PATIENCE):
            await stream.send(b"still there?")
            await stream.receive()
        took = time.perf_counter() - began
    return Figure(
        f"bindings live {_SHORT} s: a byte after {3 * _SHORT} s of silence is answered",
        "3 s",
        f"{took * 1000:.0f} ms",
        took <= 3.0,
    )


async def _pass(seconds: float) -> None:
    """Lets time pass, as the subject of a measurement."""
    await anyio.sleep_until(anyio.current_time() + seconds)
