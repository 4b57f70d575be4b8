"""Numbers and paths that everybody knows."""

from __future__ import annotations

import os
from pathlib import Path

ECHO_PORT = 7
HTTP_PORT = 80
HANDSHAKE_PORT = 444
STDIO_PORT = 1000

REGISTRY_PORT = 9000
BEACON_PORT = 9001

VERSION = "0.1.0"

#: Congestion controllers and their numbers on the daemon's socket.
CONGESTION = {"reno": 1, "cubic": 2, "bbr": 3}


def default_socket() -> Path:
    """Where the daemon's socket is unless told otherwise: ``$PILOT_SOCKET``, else
    ``pilot.sock`` below ``$XDG_RUNTIME_DIR``, else ``/tmp/pilot.sock``."""
    if named := os.environ.get("PILOT_SOCKET"):
        return Path(named)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "pilot.sock"
    return Path("/tmp/pilot.sock")


def home() -> Path:
    """The directory of identity, pid file and log: ``.pilot`` below ``$PILOT_HOME`` or ``~``."""
    return Path(os.environ.get("PILOT_HOME") or Path.home()) / ".pilot"


def default_registry() -> str:
    """The registry's ``host:port``: ``$PILOT_REGISTRY`` or this host's."""
    return os.environ.get("PILOT_REGISTRY") or f"127.0.0.1:{REGISTRY_PORT}"


def default_beacon() -> str:
    """The beacon's ``host:port``: ``$PILOT_BEACON`` or this host's."""
    return os.environ.get("PILOT_BEACON") or f"127.0.0.1:{BEACON_PORT}"
