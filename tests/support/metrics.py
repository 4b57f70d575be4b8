"""The metrics of every program, from the objects that make them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from pilotstack._core import Core
from pilotstack.beacon import Beacon
from pilotstack.beacon.metrics import BeaconMetrics
from pilotstack.daemon.exposition import NodeMetrics
from pilotstack.gateway.control import Status
from pilotstack.gateway.monitor import GatewayMetrics
from pilotstack.observe.families import ProcessMetrics
from pilotstack.registry.server.exposition import RegistryMetrics
from pilotstack.registry.server.server import RegistryServer
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.services.limits import Limited
from pilotstack.services.nameserver.monitor import NameserverMetrics
from pilotstack.services.nameserver.server import Nameserver
from pilotstack.services.relaying import Relays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric

#: The end of a sample's name, by the type of its family.
_SUFFIXES = {"counter": "_total", "info": "_info"}


def name_of(metric: Metric) -> str:
    """What the text format calls it."""
    return metric.name + _SUFFIXES.get(metric.type, "")


def labels_of(metric: Metric) -> tuple[str, ...]:
    """Names of its labels."""
    return tuple(getattr(metric, "_labelnames", ()))


async def families() -> Mapping[str, list[Metric]]:
    """Metrics by the program that shows them."""
    core = Core(
        identity_seed=os.urandom(32),
        seed=os.urandom(32),
        listen="127.0.0.1:0",
        ipc_fd=None,
        has_echo=False,
        congestion="cubic",
        greeting="{}",
    )
    with Beacon("127.0.0.1:0") as beacon:
        relayed = list(BeaconMetrics(beacon).collect())
    async with RegistryServer("127.0.0.1", 0, MemoryStore()) as server:
        registry = list(RegistryMetrics(server.view).collect())
    status = Status(0, "", "", [], 0, 0, {})
    nothing = cast("Any", None)
    names = NameserverMetrics(Nameserver(nothing), Limited(nothing, nothing, total=1, per_peer=1))
    try:
        node = NodeMetrics(core, dict, dict, lambda: False)
        return {
            "Of every program": list(ProcessMetrics("").collect()),
            "Of a daemon": list(node.collect()),
            "Of a registry": registry,
            "Of a beacon": relayed,
            "Of a gateway": list(GatewayMetrics(lambda: status, Relays(1)).collect()),
            "Of a nameserver": list(names.collect()),
        }
    finally:
        core.stop()
