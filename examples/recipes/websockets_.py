"""WebSockets by the library websockets, at both ends."""

from __future__ import annotations

import tempfile

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, unix_serve

import pilotstack


async def shout(connection: ServerConnection) -> None:
    """Answers messages in capitals."""
    async for message in connection:
        await connection.send(str(message).upper())


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            unix_serve(shout, f"{folder}/ws") as server,
            pilotstack.Driver(socket) as driver,
            driver.listen(port, path=f"{folder}/ws"),
        ):
            await server.serve_forever()


async def ask(socket: str, target: str, message: str) -> str:
    """The answer to a message."""
    async with pilotstack.Driver(socket) as driver:
        stream = await driver.dial(target, no_delay=True)
        async with connect(f"ws://{target}/", sock=stream.socket(), proxy=None) as connection:
            await connection.send(message)
            return str(await connection.recv())
