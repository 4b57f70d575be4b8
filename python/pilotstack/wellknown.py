"""Well-known ports and addresses, default paths and the version. It imports nothing at the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Virtual ports: docs/reference/protocol/services.md. No stream is dialled to port 0: the tunnel
# answers its control packets.
LIVENESS_PORT = 0
STATUS_PORT = 1
ECHO_PORT = 7
NAME_PORT = 53
HTTP_PORT = 80
SECURE_PORT = 443
HANDSHAKE_PORT = 444
STDIO_PORT = 1000
DATA_EXCHANGE_PORT = 1001
EVENT_STREAM_PORT = 1002
# Ours: no other implementation knows it.
MCP_PORT = 1010

#: What is expected on each of them.
SERVICES = {
    LIVENESS_PORT: "liveness",
    STATUS_PORT: "status",
    ECHO_PORT: "echo",
    NAME_PORT: "names",
    HTTP_PORT: "http",
    SECURE_PORT: "secure channel",
    HANDSHAKE_PORT: "trust handshake",
    STDIO_PORT: "stdio",
    DATA_EXCHANGE_PORT: "data exchange",
    EVENT_STREAM_PORT: "event stream",
    MCP_PORT: "mcp",
}

REGISTRY_PORT = 9000
BEACON_PORT = 9001

VERSION = "0.1.0"


def default_socket() -> Path:
    """Where programs find the daemon unless told otherwise: ``$PILOT_SOCKET``, else what the user's
    file of settings says, else see :func:`pilotstack._paths.default_socket`.

    Raises:
        InvalidArgument: that file cannot be read.
    """
    import os
    from pathlib import Path

    from pilotstack import _config, _paths

    named = "" if os.environ.get("PILOT_SOCKET") else _config.text_of("socket")
    return Path(named) if named else _paths.default_socket()


def home() -> Path:
    """The directory of identity, pid file and log: see :func:`pilotstack._paths.home`."""
    from pilotstack import _paths

    return _paths.home()


#: Default registry and beacon: on this host.
LOCAL_REGISTRY = f"127.0.0.1:{REGISTRY_PORT}"
LOCAL_BEACON = f"127.0.0.1:{BEACON_PORT}"
