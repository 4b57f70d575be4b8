"""Streams as asyncio has them: ``await pilotstack.asyncio.open_connection("agent-b:80")``."""

from __future__ import annotations

from pilotstack.services.adapters.asyncio import (
    Server,
    StreamWriter,
    create_connection,
    create_server,
    open_connection,
    start_server,
)

__all__ = [
    "Server",
    "StreamWriter",
    "create_connection",
    "create_server",
    "open_connection",
    "start_server",
]
