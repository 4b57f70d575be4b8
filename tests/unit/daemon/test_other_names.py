"""When a daemon asks a nameserver, and when it does not."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel
import pytest

from pilotstack.daemon.other_names import OtherNames
from pilotstack.errors import ConnectionRefused, NotFound
from pilotstack.types import Address

pytestmark = pytest.mark.anyio


class Registry:
    """A driver that knows hostnames and counts questions; nothing answers on port 53."""

    def __init__(self, **hostnames: Address) -> None:
        self.hostnames = hostnames
        self.asked: list[str] = []
        self.dialled = 0

    async def resolve(self, name: str) -> Any:
        self.asked.append(name)
        if name not in self.hostnames:
            raise NotFound(name)
        return type("Resolved", (), {"address": self.hostnames[name]})

    def dial(self, *arguments: Any, **options: Any) -> Any:
        self.dialled += 1
        raise ConnectionRefused("nothing listens")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


async def test_without_a_nameserver_nobody_is_asked_for_a_while(clock: list[float]) -> None:
    registry = Registry()
    names = OtherNames("nameserver", lambda: registry)  # type: ignore[arg-type,return-value]
    for _ in range(3):
        assert await names.resolve("x") is None
    assert registry.asked == ["nameserver"]
    clock[0] += 6
    assert await names.resolve("x") is None
    assert registry.asked == ["nameserver"] * 2


async def test_a_nameserver_that_does_not_answer_is_left_alone(clock: list[float]) -> None:
    registry = Registry(nameserver=Address(0, 9))
    names = OtherNames("nameserver", lambda: registry)  # type: ignore[arg-type,return-value]
    # What no record can have is not asked for, and says nothing about the nameserver.
    assert await names.resolve("no name") is None
    for _ in range(3):
        assert await names.resolve("x") is None
    assert registry.dialled == 1
    clock[0] += 6
    await names.resolve("x")
    assert registry.dialled == 2


async def test_nobody_is_asked_where_that_makes_no_sense() -> None:
    registry = Registry()
    for server, driver in (("", registry), ("x", registry), ("nameserver", None)):
        names = OtherNames(server, lambda driver=driver: driver)  # type: ignore[misc]
        assert await names.resolve("x") is None
    assert registry.asked == []
    await anyio.lowlevel.checkpoint()
