from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.pilotctl import Pilotctl

from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def alone() -> Pilotctl:
    """Commands of somebody who has no daemon."""
    return Pilotctl({"PILOT_SOCKET": "/nowhere/pilot.sock", "PILOT_REGISTRY": "127.0.0.1:1"})


@pytest.fixture
def agent_a(shared_network: Network) -> Pilotctl:
    """The first agent's commands."""
    return Pilotctl.of(shared_network, "agent-a")


@pytest.fixture(scope="module")
def private_network() -> Iterator[Network]:
    """Three agents whom nobody may reach, in this order, for the tests of a module."""
    with Network() as network:
        for name in ("agent-a", "agent-b", "agent-c"):
            network.start(name, public=False)
        yield network


@pytest.fixture(scope="module")
def a(private_network: Network) -> Pilotctl:
    """The first one's commands."""
    return Pilotctl.of(private_network, "agent-a")


@pytest.fixture(scope="module")
def b(private_network: Network) -> Pilotctl:
    """The second one's commands."""
    return Pilotctl.of(private_network, "agent-b")


@pytest.fixture(scope="module")
def c(private_network: Network) -> Pilotctl:
    """The third one's commands."""
    return Pilotctl.of(private_network, "agent-c")
