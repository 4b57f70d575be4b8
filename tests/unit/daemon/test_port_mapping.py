"""When a router is asked to map the tunnel's port, and what follows."""

from __future__ import annotations

import math
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from pilotstack import _resolving
from pilotstack.daemon import port_mapping
from pilotstack.daemon.identity import Identity
from pilotstack.daemon.port_mapping import PortMappings
from pilotstack.daemon.state import NodeState
from pilotstack.errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

GATEWAY, LOCAL, OUTSIDE = "192.168.1.1", "192.168.1.9", "203.0.113.7"


class Router:
    """Answers what it is told to, and notes what it is asked."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str, int]] = []
        self.asked = 0
        self.removed = 0
        self.host, self.port, self.seconds = OUTSIDE, 4000, 7200
        self.refusal = ""
        #: A call waits while it is not set.
        self.answers = threading.Event()
        self.answers.set()

    def make(self, gateway: str, local: str, port: int) -> Router:
        self.places.append((gateway, local, port))
        return self

    def map(self, seconds: int) -> tuple[str, str, int, int]:
        self.answers.wait()
        self.asked += 1
        if self.refusal:
            raise ConnectionFailed(self.refusal)
        return "pcp", self.host, self.port, min(seconds, self.seconds)

    def remove(self) -> None:
        self.answers.wait()
        self.removed += 1


class Host:
    """One host behind a router: what it finds out by itself, and its mappings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway: str | None = GATEWAY
        self.sources = {GATEWAY: LOCAL}
        self.seen = f"{OUTSIDE}:41000"
        self.changes = 0
        self.router = Router()
        self.state = NodeState(Identity.generate())
        monkeypatch.setattr(port_mapping, "default_gateway", self._gateway)
        monkeypatch.setattr(_resolving, "source_towards", lambda address: self.sources.get(address))

    async def _gateway(self) -> str | None:
        await anyio.lowlevel.checkpoint()
        return self.gateway

    def _changed(self) -> None:
        self.changes += 1

    def mappings(self, bound: str = "0.0.0.0", off: str = "") -> PortMappings:
        return PortMappings(
            self.state,
            (bound, 4000),
            lambda: self.seen,
            self._changed,
            off=off,
            make=self.router.make,
        )


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    for name, value in (("_SETTLE", 0.0), ("_SOON", 0.001), ("_AGAIN", 0.001), ("_MOST", 0.002)):
        monkeypatch.setattr(port_mapping, name, value)
    return Host(monkeypatch)


async def until(condition: object) -> None:
    assert callable(condition)
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def kept(mappings: PortMappings) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mappings.keep)
        yield
        tasks.cancel_scope.cancel()


async def test_a_mapping_is_noted_and_registered_if_the_beacon_sees_the_same_router(
    host: Host,
) -> None:
    mappings = host.mappings()
    assert mappings.endpoint(host.seen) == host.seen
    async with kept(mappings):
        await until(lambda: host.changes)
    mapping = host.state.port_mapping
    assert (mapping.protocol, mapping.external, mapping.error) == ("pcp", f"{OUTSIDE}:4000", "")
    assert mapping.expires > 0
    assert host.router.places == [(GATEWAY, LOCAL, 4000)]
    assert mappings.endpoint(host.seen) == f"{OUTSIDE}:4000"
    # Another NAT between the router and the beacon.
    host.seen = "198.51.100.1:500"
    assert mappings.endpoint(host.seen) == host.seen


@pytest.mark.parametrize(
    ("seen", "gateway", "local", "bound", "why"),
    [
        ("", GATEWAY, LOCAL, "::", "no beacon"),
        (f"{LOCAL}:4000", GATEWAY, LOCAL, "::", "no NAT"),
        ("127.0.0.1:4000", GATEWAY, LOCAL, "::", "no NAT"),
        (f"{OUTSIDE}:4000", None, LOCAL, "::", "no default gateway"),
        (f"{OUTSIDE}:4000", GATEWAY, "203.0.113.9", "::", "public address"),
        (f"{OUTSIDE}:4000", GATEWAY, "127.0.0.1", "::", "public address"),
        (f"{OUTSIDE}:4000", GATEWAY, LOCAL, "192.168.2.9", "not bound"),
        (f"{OUTSIDE}:4000", GATEWAY, LOCAL, "127.0.0.1", "not bound"),
    ],
)
async def test_no_router_is_asked_where_a_mapping_is_of_no_use(
    host: Host, seen: str, gateway: str | None, local: str, bound: str, why: str
) -> None:
    host.seen, host.gateway, host.sources = seen, gateway, {GATEWAY: local}
    async with kept(host.mappings(bound)):
        await until(lambda: why in host.state.port_mapping.error)
    assert host.router.places == []
    assert host.changes == 0


async def test_it_can_be_switched_off(host: Host) -> None:
    async with kept(host.mappings(off="switched off")):
        await until(lambda: host.state.port_mapping.error == "switched off")
    assert host.router.places == []


async def test_a_mapping_is_renewed_with_the_same_mapper_and_tells_changes_alone(
    host: Host,
) -> None:
    host.router.seconds = 0
    host.router.port = 4001
    async with kept(host.mappings()):
        await until(lambda: host.changes == 1)
        host.router.seconds = 1
        host.router.port = 4002
    mappings = host.mappings()
    host.router.seconds = 0
    async with kept(mappings):
        await until(lambda: host.changes == 2)
        mappings.nudge()
        asked = host.router.asked
        await until(lambda: host.router.asked > asked)
    assert host.state.port_mapping.expires == 0.0
    assert host.changes == 2
    assert len(host.router.places) == 2, "one for each PortMappings"


@pytest.mark.parametrize(
    ("seconds", "pause"), [(7200, 3600.0), (120, 60.0), (60, 60.0), (1, 60.0), (0, 3600.0)]
)
async def test_renewals_are_due_at_half_of_the_lease(
    host: Host, seconds: int, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_mapping, "_SOON", 60.0)
    host.router.seconds = seconds
    assert await host.mappings()._ask((GATEWAY, LOCAL)) == pause


async def test_a_refusal_is_told_and_tried_again(host: Host) -> None:
    host.router.refusal = "pcp: Not authorized"
    async with kept(host.mappings()):
        await until(lambda: host.router.asked > 3)
        assert host.state.port_mapping.error == "pcp: Not authorized"
        assert host.changes == 0
        host.router.refusal = ""
        await until(lambda: host.state.port_mapping.external)
    assert host.changes == 1


async def test_another_network_makes_another_mapping(host: Host) -> None:
    mappings = host.mappings()
    async with kept(mappings):
        await until(lambda: host.changes == 1)
        host.gateway, host.sources["10.0.0.1"] = "10.0.0.1", "10.0.0.2"
        host.router.host = "203.0.113.8"
        host.seen = "203.0.113.8:1024"
        mappings.nudge()
        await until(lambda: host.changes == 2)
        assert host.router.places[-1] == ("10.0.0.1", "10.0.0.2", 4000)
        # A network without a NAT.
        host.seen = "10.0.0.2:4000"
        mappings.nudge()
        await until(lambda: host.changes == 3)
    assert host.state.port_mapping.external == ""
    await mappings.aclose()
    assert host.router.removed == 0


async def test_the_end_removes_the_mapping(host: Host) -> None:
    mappings = host.mappings()
    async with kept(mappings):
        await until(lambda: host.changes == 1)
    await mappings.aclose()
    await mappings.aclose()
    assert host.router.removed == 1


async def test_a_silent_router_delays_neither_cancellation_nor_the_end(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_mapping, "FAREWELL", 0.01)
    host.router.answers.clear()
    mappings = host.mappings()
    with anyio.fail_after(5):
        async with kept(mappings):
            await until(lambda: host.router.places)
        await mappings.aclose()
    assert host.router.removed == 0
    host.router.answers.set()


def test_pauses_grow_to_an_hour() -> None:
    pauses = [port_mapping.pause_after(failures) for failures in range(1, 10)]
    assert pauses[:4] == [60.0, 120.0, 240.0, 480.0]
    assert pauses[-1] == 3600.0
    assert math.isfinite(port_mapping.pause_after(5000))
