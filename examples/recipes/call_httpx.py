"""httpx asks agents, on asyncio and on Trio."""

from __future__ import annotations

import httpx

import pilotstack.httpx


async def ask(socket: str, url: str) -> str:
    """The text behind a URL such as ``http://agent-b/status``."""
    transport = pilotstack.httpx.AsyncTransport(socket_path=socket)
    async with httpx.AsyncClient(transport=transport) as client:
        return (await client.get(url)).text
