"""What a daemon is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.client import Trust


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Settings of one daemon. Addresses are ``host:port``; empty means none."""

    #: One address, or several of registries with the same state, separated by commas.
    registry: str
    beacon: str
    listen: str
    socket: Path
    #: How the registry is recognized over TLS; plain TCP without.
    registry_trust: Trust | None = None
    #: File of the identity; without one it lives as long as the process.
    identity: Path | None = None
    hostname: str = ""
    owner: str = ""
    #: The registry's admin token, for drivers that manage networks and give none.
    admin_token: str = ""
    #: Public endpoint, if it is known; the beacon is not asked then.
    endpoint: str = ""
    public: bool = False
    has_echo: bool = True
    #: Congestion controller of streams that ask for none: ``cubic``, ``bbr`` or ``reno``.
    congestion: str = "cubic"
    #: Seconds between heartbeats.
    keepalive: float = 30.0
