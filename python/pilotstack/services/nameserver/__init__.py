"""The nameserver of port 53: names of nodes, networks and services
(docs/reference/protocol/services/names.md).

:class:`Nameserver` answers; :class:`Names` asks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotstack.services.nameserver.client import Names
    from pilotstack.services.nameserver.records import NameRecord, NetworkRecord, ServiceRecord
    from pilotstack.services.nameserver.server import DriverDirectory, Nameserver

__all__ = [
    "DriverDirectory",
    "NameRecord",
    "Names",
    "Nameserver",
    "NetworkRecord",
    "ServiceRecord",
]

# Who asks does not need the server.
_HOMES = {
    "client": ("Names",),
    "records": ("NameRecord", "NetworkRecord", "ServiceRecord"),
    "server": ("DriverDirectory", "Nameserver"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            module = import_module(f"pilotstack.services.nameserver.{home}")
            found = globals()[name] = getattr(module, name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
