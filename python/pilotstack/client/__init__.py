"""The driver SDK: how agents use the local daemon (whitepaper section 4.4)."""

from __future__ import annotations

from pilotstack.client._stream import PilotAttribute, Stream
from pilotstack.client.aio import Driver, dial, listen
from pilotstack.client.listeners import DatagramSocket, Listener

__all__ = ["DatagramSocket", "Driver", "Listener", "PilotAttribute", "Stream", "dial", "listen"]
