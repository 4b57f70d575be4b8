"""The network stack for autonomous agents: addresses, ports, streams and encrypted tunnels.

Two lines are a client and two are a server::

    async with await pilotstack.dial("agent-b:80") as stream:
        await stream.send(b"hello")

    async with await pilotstack.listen(80) as listener:
        await listener.serve(handler)
"""

from __future__ import annotations

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
    "dial",
    "listen",
]
