"""The line that the daemon prints when it serves."""

from __future__ import annotations

import msgspec


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemon tells whoever started it."""

    node_id: int
    address: str
    hostname: str
    socket: str
    #: Public endpoint, IP address and port.
    endpoint: str
    #: UDP address that is bound.
    tunnel: str
    pid: int
    #: Where HTTP is served, and the file with the address of the dashboard.
    http: str = ""
    dashboard: str = ""
    #: Why the hostname was not granted.
    hostname_error: str = ""

    def members(self) -> dict[str, object]:
        """The members of the line."""
        shown: dict[str, object] = msgspec.to_builtins(self)
        return shown
