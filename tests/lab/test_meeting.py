"""Two agents meet, wherever they are, and stay in touch, whatever happens to their path.

The part of the lab that runs before every merge: each kind of place, narrow links, IPv6 alone,
roaming, and the loss of a beacon. Times are figures of ``make lab``; here things only happen.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.lab import endurance, events, narrow, trial, uses
from tests.lab.places import PLACES, PROGRAMS, Expected, expected
from tests.lab.timeline import PATIENCE

from pilotstack import Driver
from pilotstack.testing.internet import missing_requirement

_MISSING = missing_requirement(*PROGRAMS)
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.lab,
    # Busy machines need long for a few processes and a hundred calls of `ip`.
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_MISSING), reason=f"network namespaces need {_MISSING}"),
]
#: Uplinks without an emulated delay.
CABLES = replace(events.PAIR, path="")
#: Seconds for a direct path that the behaviour of the NATs does not promise.
_LUCK = 2.0
#: Bytes that pass all that can happen to a path.
_ENDURED = 20_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def meet(first: str, second: str) -> trial.Result:
    promised = expected(PLACES[first], PLACES[second]) in (Expected.DIRECT, Expected.MAPPED)
    pair = trial.Pair(first, second, path="")
    return await trial.run(pair, None, PATIENCE if promised else _LUCK)


@pytest.mark.parametrize("place", PLACES)
async def test_agents_meet(place: str) -> None:
    result = await meet(place, "port-restricted")
    assert result.is_well, result


@pytest.mark.parametrize(
    ("first", "second"), [("ipv6", "ipv6"), ("ipv6", "dual-stack"), ("carrier", "carrier")]
)
async def test_pairs_of_their_own_kind_meet_directly(first: str, second: str) -> None:
    result = await meet(first, second)
    assert result.outcome == "direct", result


async def test_two_agents_meet_at_a_port_that_a_router_was_asked_for() -> None:
    result = await meet("symmetric", "port-mapping")
    assert result.outcome == "mapped", result


@pytest.mark.parametrize("place", ["port-restricted", "cut-off"])
@pytest.mark.parametrize("mtu", [1280, 600])
async def test_a_narrow_link_carries_a_transfer(place: str, mtu: int) -> None:
    async with (
        trial.scene(trial.Pair(place, place, path="", mtu=mtu), None) as made,
        Driver(made.nodes[0].socket) as a,
        Driver(made.nodes[1].socket) as b,
    ):
        await narrow.move(a, b)


async def test_a_transfer_survives_a_move() -> None:
    await events.move_host(CABLES, None, 0)


async def test_a_transfer_survives_another_address_of_the_router() -> None:
    await events.renumber_home(CABLES, None, 1)


@pytest.mark.parametrize("side", [0, 1], ids=events.ROLES)
async def test_a_transfer_survives_a_nat_that_forgets(side: int) -> None:
    await events.reboot_nat(CABLES, None, side)


async def test_a_relayed_transfer_survives_the_death_of_its_beacon() -> None:
    await events.lose_beacon(CABLES, None, comes_back=False)


@pytest.mark.parametrize(("first", "second"), [*uses.COMBINATIONS[:4], ("cut-off", "cut-off")])
async def test_private_agents_do_everything(first: str, second: str) -> None:
    assert await uses.use(first, second, None) == ["info", "trust", "ping", "http", "transfer"]


async def test_a_transfer_survives_everything() -> None:
    await endurance.endure(CABLES, _ENDURED, None, print)
