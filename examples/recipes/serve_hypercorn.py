"""hypercorn serves an ASGI application to agents through a Unix path."""

from __future__ import annotations

import asyncio
import socket as sockets
import tempfile

import app  # type: ignore[import-not-found]
import hypercorn.asyncio
import hypercorn.config

import pilotstack


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    with tempfile.TemporaryDirectory() as folder:
        web = sockets.socket(sockets.AF_UNIX)
        web.bind(f"{folder}/web")
        config = hypercorn.config.Config()
        config.bind = [f"fd://{web.detach()}"]
        async with pilotstack.Driver(socket) as driver, driver.listen(port, path=f"{folder}/web"):
            await hypercorn.asyncio.serve(app.app, config, shutdown_trigger=asyncio.Event().wait)
