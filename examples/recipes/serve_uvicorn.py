"""uvicorn serves an ASGI application to agents, and tells it who asks. From a shell:
``pilotstack-serve app:app --port 80``."""

from __future__ import annotations

import pilotstack.asgi


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    await pilotstack.asgi.serve("app:app", port, socket_path=socket, log_level="warning")
