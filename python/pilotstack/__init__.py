"""The network stack for autonomous agents: addresses, ports, streams and encrypted tunnels.

Two lines are a client and two are a server::

    async with pilotstack.dial("agent-b:80") as stream:
        await stream.send(b"hello")

    async with pilotstack.listen(80) as listener:
        await listener.serve(handler)

:mod:`pilotstack.sync` has the same for code without an event loop.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pilotstack.client import (
    DatagramSocket,
    Driver,
    Listener,
    PilotAttribute,
    Stream,
    dial,
    listen,
)
from pilotstack.errors import PilotError, StreamBroken
from pilotstack.types import (
    Address,
    ConnectionInfo,
    Datagram,
    Info,
    Invite,
    Member,
    NetworkInfo,
    PeerInfo,
    PendingHandshake,
    Resolved,
    SocketAddress,
    TrustedPeer,
)
from pilotstack.wellknown import VERSION as __version__

if TYPE_CHECKING:
    from pilotstack import sync

__all__ = [
    "Address",
    "ConnectionInfo",
    "Datagram",
    "DatagramSocket",
    "Driver",
    "Info",
    "Invite",
    "Listener",
    "Member",
    "NetworkInfo",
    "PeerInfo",
    "PendingHandshake",
    "PilotAttribute",
    "PilotError",
    "Resolved",
    "SocketAddress",
    "Stream",
    "StreamBroken",
    "TrustedPeer",
    "__version__",
    "dial",
    "listen",
    "sync",
]


def __getattr__(name: str) -> Any:
    # Importing the blocking SDK is left to those who use it.
    if name == "sync":
        return importlib.import_module("pilotstack.sync")
    raise AttributeError(f"module 'pilotstack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "sync"})
