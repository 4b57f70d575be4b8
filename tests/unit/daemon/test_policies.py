"""What the core is told about the policies of networks."""

from __future__ import annotations

from typing import Any

import pytest

from pilotstack.daemon.policies import Policies
from pilotstack.errors import ConnectionFailed

pytestmark = pytest.mark.anyio


class FakeRegistry:
    """Keeps one policy."""

    def __init__(self) -> None:
        self.ports = [7, 80]
        self.is_there = True
        self.asked = 0

    async def get_network_policy(self, network: int) -> dict[str, object]:
        self.asked += 1
        if not self.is_there:
            raise ConnectionFailed("the registry is away")
        return {"allowed_ports": list(self.ports)}


class FakeCore:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ports: list[list[int]] = []

    def set_network_policy(self, network: int, ports: list[int]) -> None:
        self.ports.append(ports)


def make() -> tuple[Any, FakeCore, Policies]:
    registry: Any = FakeRegistry()
    core = FakeCore()
    return registry, core, Policies(registry, core)


async def test_a_policy_is_not_asked_for_twice_at_once() -> None:
    registry, core, policies = make()
    await policies.refresh(1)
    registry.ports = [7]
    await policies.refresh(1)
    assert (registry.asked, core.ports) == (1, [[7, 80], [7, 80]])


async def test_a_change_of_ours_counts_at_once() -> None:
    registry, core, policies = make()
    await policies.refresh(1)
    registry.ports = [7]
    await policies.changed(1)
    assert core.ports[-1] == [7]


async def test_what_is_known_holds_while_the_registry_is_away() -> None:
    registry, core, policies = make()
    await policies.refresh(1)
    registry.is_there = False
    await policies.changed(1)
    assert core.ports[-1] == [7, 80]
