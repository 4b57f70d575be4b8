"""MCP by the package mcp, at both ends. Other clients reach the server by
``pilotctl mcp connect agent-b``."""

from __future__ import annotations

from mcp import Client
from mcp.server import MCPServer

import pilotstack.mcp

server: MCPServer[None] = MCPServer("shouter", log_level="WARNING")


@server.tool()
def shout(text: str) -> str:
    """Answers in capitals."""
    return text.upper()


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    await pilotstack.mcp.serve(server, port, socket_path=socket)


async def ask(socket: str, target: str, text: str) -> str:
    """The answer of the tool."""
    async with Client(pilotstack.mcp.Transport(target, socket_path=socket)) as client:
        result = await client.call_tool("shout", {"text": text})
        return str((result.structured_content or {})["result"])
