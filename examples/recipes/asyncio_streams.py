"""asyncio's readers and writers, at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pilotstack.asyncio

if TYPE_CHECKING:
    import asyncio


async def shout(reader: asyncio.StreamReader, writer: pilotstack.asyncio.StreamWriter) -> None:
    """Answers lines in capitals."""
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    async with await pilotstack.asyncio.start_server(shout, port, socket_path=socket) as server:
        await server.serve_forever()


async def ask(socket: str, target: str, line: str) -> str:
    """The answer to a line."""
    reader, writer = await pilotstack.asyncio.open_connection(target, socket_path=socket)
    writer.write(f"{line}\n".encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode().rstrip()
