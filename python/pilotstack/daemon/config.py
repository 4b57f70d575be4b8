"""The daemon's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pilotstack import wellknown
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.client import TlsTrust


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Settings of one daemon. Addresses are ``host:port``; empty means none."""

    #: One address, or several of registries with the same state, separated by commas.
    registry: str
    #: Several are separated by commas, in the order of preference.
    beacon: str
    listen: str
    #: The drivers' socket; at the default place unless given.
    socket: Path | None = None
    #: How the registry is recognized over TLS; plain TCP without.
    registry_trust: TlsTrust | None = None
    #: File of the identity; without one the key lives as long as the process.
    identity: Path | None = None
    hostname: str = ""
    owner: str = ""
    #: The registry's admin token, for drivers that manage networks and give none.
    admin_token: str = field(default="", repr=False)
    #: Public endpoint, if the operator knows it; that which beacons see does not matter then.
    endpoint: str = ""
    #: No endpoint is registered: peers come through a beacon.
    relay_only: bool = False
    public: bool = False
    #: Nothing of the node is left at the registry when the daemon stops.
    ephemeral: bool = False
    #: Grant every request for trust.
    trust_auto_approve: bool = False
    #: Networks to join at the start: ids separated by commas.
    networks: str = ""
    has_echo: bool = True
    has_status: bool = True
    #: Serve names on port 53.
    is_nameserver: bool = False
    #: Where names are asked for that the registry does not know; nowhere if empty.
    names: str = "nameserver"
    has_data_exchange: bool = True
    has_event_stream: bool = True
    #: Folder of what peers send; beside the identity, else in the home, unless given.
    files: Path | None = None
    #: GiB that peers may store there; one of them half of it.
    files_quota: float = 64.0
    #: Ask the router to map the tunnel's port, where that is of use.
    may_map_port: bool = True
    #: Congestion controller of streams that ask for none: ``cubic``, ``bbr`` or ``reno``.
    congestion: str = "cubic"
    #: Folder for a record of every connection as qlog.
    qlog: Path | None = None
    #: Where health, metrics and the dashboard are served; nowhere if empty.
    http: str = ""
    #: Seconds between heartbeats.
    keepalive: float = 30.0


def parse_networks(text: str) -> frozenset[int]:
    """Ids of networks, separated by commas.

    Raises:
        InvalidArgument: one is no id.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdecimal() and int(part) < 1 << 16 for part in parts):
        raise InvalidArgument(
            f"no ids of networks: {text!r}", hint="for example 1,7; see: pilotctl network list"
        )
    return frozenset(map(int, parts)) - {0}


def files_folder(config: DaemonConfig) -> Path:
    """Folder of what peers send."""
    if config.files is not None:
        return config.files
    beside = config.identity.parent if config.identity is not None else None
    # That of an identity may be read-only.
    return beside if beside is not None and os.access(beside, os.W_OK) else wellknown.home()


def default_identity() -> Path:
    """Default place of the identity of a daemon in the background: where second-generation programs
    have it, else where those of the first generation left one."""
    found, older = (wellknown.home() / name for name in ("identity.json", "identity.key"))
    return older if older.exists() and not found.exists() else found
