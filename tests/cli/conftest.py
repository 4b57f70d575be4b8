from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.pilotctl import Pilotctl

if TYPE_CHECKING:
    from pilotstack.testing import Network


@pytest.fixture
def alone() -> Pilotctl:
    """Commands of somebody who has no daemon."""
    return Pilotctl({"PILOT_SOCKET": "/nowhere/pilot.sock", "PILOT_REGISTRY": "127.0.0.1:1"})


@pytest.fixture
def agent_a(shared_network: Network) -> Pilotctl:
    """The first agent's commands."""
    return Pilotctl.of(shared_network, "agent-a")
