"""Services that the daemon makes when they are needed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, cast

import pytest
from tests.unit.services.streams import pipe

from pilotstack import wellknown
from pilotstack.daemon.builtins import BUILTINS, Parts
from pilotstack.daemon.config import DaemonConfig
from pilotstack.services import status
from pilotstack.services.status import Service
from pilotstack.types import Address

pytestmark = pytest.mark.anyio


class State:
    address = Address(0, 3)
    hostname = "agent-a"


def parts(**changed: Any) -> Parts:
    known: dict[str, Any] = {
        "config": DaemonConfig(registry="", beacon="", listen=""),
        "state": State(),
        "driver": None,
        "tasks": None,
        "offered": lambda: (Service(7, "echo"),),
        "dropped": Counter(),
        "hostname": None,
        "kept": lambda kind: None,
        "started": time.monotonic() - 100,
    }
    return Parts(**known | changed)


async def test_the_uptime_is_the_daemons_not_that_of_the_service() -> None:
    builtin = next(row for row in BUILTINS if row.port == wellknown.STATUS_PORT)
    ours, theirs = pipe()
    async with ours:
        await builtin.make(parts())(cast("Any", theirs))
        told = status.decode(b"".join([chunk async for chunk in ours]))
    assert told.uptime_secs >= 100
    assert told.services == (Service(7, "echo"),)


def test_ports_are_served_once_and_have_names() -> None:
    ports = [row.port for row in BUILTINS]
    assert ports == sorted(set(ports))
    assert all(row.name for row in BUILTINS)
    config = DaemonConfig(registry="", beacon="", listen="")
    on = {row.port for row in BUILTINS if row.is_on(config)}
    assert wellknown.STATUS_PORT in on
    assert wellknown.NAME_PORT not in on
