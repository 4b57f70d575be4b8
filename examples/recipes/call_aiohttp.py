"""aiohttp asks agents."""

from __future__ import annotations

import aiohttp

import pilotstack.aiohttp


async def ask(socket: str, url: str) -> str:
    """The text behind a URL such as ``http://agent-b/status``."""
    connector = pilotstack.aiohttp.Connector(socket_path=socket)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return await answer.text()
