"""What agents do with each other, over every combination of public hosts and NATs: a handshake of
trust that the registry relays, a plain stream, HTTP and a transfer, all between private nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab.trial import Pair, scene

from pilotstack import Driver
from pilotstack.cli import demo_steps
from pilotstack.cli.output import Output

if TYPE_CHECKING:
    from pathlib import Path

#: The four combinations, and two that stay on the relay.
COMBINATIONS = (
    ("public", "public"),
    ("public", "port-restricted"),
    ("port-restricted", "public"),
    ("port-restricted", "port-restricted"),
    ("symmetric", "symmetric"),
    ("cut-off", "cut-off"),
)


async def use(first: str, second: str, lab: Path | None, number: int = 0) -> list[str]:
    """Does everything; returns what was done.

    Raises:
        PilotError: a step failed.
    """
    pair = Pair(first, second, number, path="", is_public=False)
    run = demo_steps.Demo(Output(is_json=True))
    async with (
        scene(pair, lab) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
    ):
        for step in demo_steps.STEPS:
            await step(a, b, run)
    return [str(step["step"]) for step in run.steps]
