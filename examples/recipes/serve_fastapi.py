"""FastAPI serves agents; a dependency says who asks."""

from __future__ import annotations

from typing import Annotated

import fastapi

import pilotstack.asgi

web = fastapi.FastAPI()


def peer(request: fastapi.Request) -> pilotstack.asgi.Peer | None:
    """Who asks, proved by the tunnel."""
    return pilotstack.asgi.peer_of(request.scope)


Who = Annotated[pilotstack.asgi.Peer | None, fastapi.Depends(peer)]


@web.get("/{path:path}", response_class=fastapi.responses.PlainTextResponse)
async def greet(path: str, who: Who) -> str:
    """Greets whoever asks."""
    return f"hello {who.address if who else 'somebody'}, this is /{path}"


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    await pilotstack.asgi.serve(web, port, socket_path=socket, log_level="warning")
