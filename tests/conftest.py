from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from pilotstack.testing import Network
from tests.support.registries import Registries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

# Jobs in the background start with SIGINT ignored, those of nohup with SIGHUP; programs inherit
# that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How fast examples come depends on what else the machine does.
settings.register_profile("any-load", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("any-load")


@pytest.fixture(params=["asyncio", "asyncio+uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    name, _, loop = request.param.partition("+")
    return name, {"use_uvloop": bool(loop)} if name == "asyncio" else {}


@pytest.fixture(scope="session")
def shared_network() -> Iterator[Network]:
    """Two agents that tests only use and never stop."""
    with Network() as network:
        network.start("agent-a")
        network.start("agent-b")
        yield network


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncIterator[Registries]:
    """A directory in which registries are started and stopped one by one."""
    with Registries(tmp_path) as running:
        yield running
        await running.aclose()


@pytest.fixture
def network() -> Iterator[Network]:
    """A rendezvous of one's own."""
    with Network() as network:
        yield network
