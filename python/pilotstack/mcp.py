"""MCP over streams: ``mcp.Client(pilotstack.mcp.Transport("agent-b"))``, and ``serve(server)``."""

from __future__ import annotations

from pilotstack.services.adapters.mcp import MAX_MESSAGE, Transport, messages, serve

__all__ = ["MAX_MESSAGE", "Transport", "messages", "serve"]
