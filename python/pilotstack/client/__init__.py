"""The driver SDK: how agents use the local daemon.

Names are imported when they are first used, so that the blocking SDK, which stands on the same
session, needs no event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotstack.client._stream import PilotAttribute, Stream
    from pilotstack.client._wire import InProcess, Place
    from pilotstack.client.aio import Driver, dial, listen
    from pilotstack.client.listeners import DatagramSocket, Listener

__all__ = [
    "DatagramSocket",
    "Driver",
    "InProcess",
    "Listener",
    "PilotAttribute",
    "Place",
    "Stream",
    "dial",
    "listen",
]

_HOMES = {
    "_stream": ("PilotAttribute", "Stream"),
    "_wire": ("InProcess", "Place"),
    "aio": ("Driver", "dial", "listen"),
    "listeners": ("DatagramSocket", "Listener"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"pilotstack.client.{home}"), name)
            return found
    raise AttributeError(f"module 'pilotstack.client' has no attribute {name!r}")
