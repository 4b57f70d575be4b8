"""aiohttp serves agents: ``request.remote`` is the peer's address."""

from __future__ import annotations

from aiohttp import web

import pilotstack.asyncio


async def greet(request: web.Request) -> web.Response:
    """Greets whoever asks."""
    return web.Response(text=f"hello {request.remote}, this is {request.path}")


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    app = web.Application()
    app.router.add_get("/{path:.*}", greet)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    try:
        async with await pilotstack.asyncio.create_server(
            runner.server, port, socket_path=socket
        ) as server:
            await server.serve_forever()
    finally:
        await runner.cleanup()
