"""Commands in the documents do and show what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.support.arrivals import until_asked, until_trusted
from tests.support.pilotctl import Pilotctl

from pilotstack import sync
from pilotstack.testing import Network

ROOT = Path(__file__).parents[2]


def dialogues(page: str) -> list[tuple[str, list[str], str]]:
    """Who types what, and what is shown then."""
    found: list[tuple[str, list[str], str]] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^(?=agent-[a-z]\$ )", block, flags=re.MULTILINE)[1:]:
            typed, _, shown = part.partition("\n")
            agent, _, command = typed.partition("$ pilotctl ")
            found.append((agent, shlex.split(command), shown))
    return found


def await_arrival(page: str, command: list[str], driver: sync.Driver) -> None:
    """Waits for what a command shows or needs to have come from the agent of the step before."""
    match page, command:
        case "trust-a-peer", ["pending"]:
            until_asked(driver, 1)
        case "trust-a-peer", ["connect", peer, *_]:
            until_trusted(driver, peer)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["networks", "trust-a-peer"])
def test_a_page_shows_what_happens(name: str) -> None:
    steps = dialogues((ROOT / "docs" / "how-to" / f"{name}.md").read_text())
    assert len(steps) > 5
    with Network() as network:
        agents = sorted({"agent-a", "agent-b", "agent-c"} | {agent for agent, _, _ in steps})
        for agent in agents:
            network.start(agent, public=False)
        for agent, command, expected in steps:
            with sync.Driver(network.nodes[agent].socket) as driver:
                await_arrival(name, command, driver)
            pilotctl = Pilotctl.of(network, agent)
            assert pilotctl.table(*command) == pilotctl.steady(expected), command
