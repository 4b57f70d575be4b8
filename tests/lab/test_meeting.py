"""Two agents meet, wherever they are, and stay in touch, whatever happens to their path.

The part of the lab that runs before every merge: each kind of place, narrow links, IPv6 alone,
roaming, and the loss of a beacon. Times are figures of ``make lab``; here things only happen.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.lab import endurance, events, narrow, trial, uses
from tests.lab.places import PLACES, PROGRAMS

from pilotstack import Driver
from pilotstack.testing.internet import missing_requirement

_MISSING = missing_requirement(*PROGRAMS)
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.lab,
    pytest.mark.skipif(bool(_MISSING), reason=f"network namespaces need {_MISSING}"),
]
#: Uplinks without an emulated delay.
CABLES = replace(events.PAIR, path="")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("place", PLACES)
async def test_agents_meet(place: str) -> None:
    result = await trial.run(trial.Pair(place, "port-restricted", path=""), None)
    assert result.is_well, result


@pytest.mark.parametrize(
    ("first", "second"), [("ipv6", "ipv6"), ("ipv6", "dual-stack"), ("carrier", "carrier")]
)
async def test_pairs_of_their_own_kind_meet_directly(first: str, second: str) -> None:
    result = await trial.run(trial.Pair(first, second, path=""), None)
    assert result.outcome == "direct", result


@pytest.mark.parametrize("mtu", narrow.MTUS)
@pytest.mark.parametrize("place", ["port-restricted", "cut-off"])
async def test_a_narrow_link_carries_a_transfer(place: str, mtu: int) -> None:
    async with (
        trial.scene(trial.Pair(place, place, path="", mtu=mtu), None) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
    ):
        await narrow.move(a, b)


SIDES = pytest.mark.parametrize("side", [0, 1], ids=["sender", "receiver"])


@SIDES
async def test_a_transfer_survives_a_move(side: int) -> None:
    await events.move_host(CABLES, None, side)


@SIDES
async def test_a_transfer_survives_another_address_of_the_router(side: int) -> None:
    await events.renumber_home(CABLES, None, side)


@SIDES
async def test_a_transfer_survives_a_nat_that_forgets(side: int) -> None:
    await events.reboot_nat(CABLES, None, side)


async def test_the_relay_takes_over_and_gives_back() -> None:
    await events.silence_path(CABLES, None)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_relayed_transfer_survives_its_beacon(comes_back: bool) -> None:
    await events.lose_beacon(CABLES, None, comes_back=comes_back)


@pytest.mark.parametrize(("first", "second"), uses.COMBINATIONS)
async def test_private_agents_do_everything(first: str, second: str) -> None:
    assert await uses.use(first, second, None) == ["info", "trust", "ping", "http", "transfer"]


async def test_a_transfer_survives_everything() -> None:
    await endurance.endure(CABLES, 50_000_000, None, print)
