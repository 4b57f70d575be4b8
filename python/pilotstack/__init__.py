"""The network stack for autonomous agents: addresses, ports, streams and encrypted tunnels.

Two lines are a client and two are a server::

    async with pilotstack.dial("agent-b:80") as stream:
        await stream.send(b"hello")

    async with pilotstack.listen(80) as listener:
        await listener.serve(handler)

:mod:`pilotstack.sync` has the same for code without an event loop. Names are imported when they are
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotstack import sync
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
    from pilotstack.ipc.answers import (
        ConnectionInfo,
        Info,
        PeerInfo,
        PendingHandshake,
        Resolved,
        TrustedPeer,
    )
    from pilotstack.ipc.network_answers import Invite, Member, NetworkInfo
    from pilotstack.node import Node
    from pilotstack.types import Address, Datagram, SocketAddress
    from pilotstack.wellknown import VERSION as __version__

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
    "Node",
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

#: Where names live that are not in :mod:`pilotstack.types`.
_HOMES = {
    "ipc.answers": (
        *("ConnectionInfo", "Info", "PeerInfo", "PendingHandshake", "Resolved", "TrustedPeer"),
    ),
    "ipc.network_answers": ("Invite", "Member", "NetworkInfo"),
    "client": (
        *("DatagramSocket", "Driver", "Listener", "PilotAttribute", "Stream", "dial", "listen"),
    ),
    "errors": ("PilotError", "StreamBroken"),
    "node": ("Node",),
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'pilotstack' has no attribute {name!r}")
    if name == "sync":
        return importlib.import_module("pilotstack.sync")
    if name == "__version__":
        found: Any = importlib.import_module("pilotstack.wellknown").VERSION
    else:
        home = next((home for home, names in _HOMES.items() if name in names), "types")
        found = getattr(importlib.import_module(f"pilotstack.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
