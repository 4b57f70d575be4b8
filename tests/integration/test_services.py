"""Services that daemons offer by themselves, and ``pilotctl services``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.pilotctl import Pilotctl

from pilotstack import Driver, sync, wellknown
from pilotstack.errors import ConnectionRefused
from pilotstack.services import status

if TYPE_CHECKING:
    from pilotstack.testing import Network


@pytest.mark.anyio
async def test_a_node_tells_what_it_offers(shared_network: Network, a: Driver) -> None:
    b = shared_network.nodes["agent-b"]
    found = await status.ask(a, (await a.resolve("agent-b")).address)
    assert (str(found.address), found.hostname) == (b.address, "agent-b")
    assert found.version == wellknown.VERSION
    assert {0, 1, 7, 444} <= {row.port for row in found.services}


def services(network: Network, *arguments: str) -> dict[str, Any]:
    result = Pilotctl.of(network, "agent-a").run("services", *arguments)
    assert result.returncode == 0, result.stdout
    data: dict[str, Any] = json.loads(result.stdout)["data"]
    return data


def test_pilotctl_lists_services_of_nodes_and_of_programs(network: Network) -> None:
    network.start("agent-a")
    b = network.start("agent-b", "--no-echo")
    with sync.Driver(b.socket) as driver, driver.listen(80), driver.listen(4444):
        found = services(network, "agent-b", "--port", "4444")
        rows = {row["port"]: row for row in found["services"]}
        assert (rows[80]["name"], rows[80]["builtin"]) == ("http", False)
        assert (rows[1]["name"], rows[1]["builtin"]) == ("status", True)
        assert {0, 1, 80, 444, 4444} <= set(rows)
        assert 7 not in rows
        everything = services(network, "agent-b", "--all")
        assert {row["port"]: row["state"] for row in everything["services"]}[7] == "closed"
    own = services(network)
    assert own["address"] == network.nodes["agent-a"].address
    assert 7 in {row["port"] for row in own["services"]}


def test_a_node_need_not_tell(network: Network) -> None:
    network.start("agent-a")
    b = network.start("agent-b", "--no-status")
    found = services(network, "agent-b")
    assert found["version"] is None
    assert {row["port"]: row["builtin"] for row in found["services"]}[7] is False
    with (
        sync.Driver(network.nodes["agent-a"].socket) as driver,
        pytest.raises(ConnectionRefused),
    ):
        driver.dial((b.name, wellknown.STATUS_PORT))
