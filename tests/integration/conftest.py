"""Fixtures of the integration tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack.testing import Network


@pytest.fixture
async def a(shared_network: Network) -> AsyncIterator[Driver]:
    """A driver of one agent of the shared network."""
    async with Driver(shared_network.nodes["agent-a"].socket) as driver:
        yield driver


@pytest.fixture
async def b(shared_network: Network) -> AsyncIterator[Driver]:
    """A driver of the other."""
    async with Driver(shared_network.nodes["agent-b"].socket) as driver:
        yield driver
