"""The tools for which the operator is asked.

Their annotations name functions of one server, so they are evaluated where they stand.
"""
# Not: from __future__ import annotations.

from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from mcp_types import ToolAnnotations
from pydantic import Field

from pilotstack.services.mcp.consent import Answer, Consent
from pilotstack.services.mcp.tools import Node, Row, Tools, telling

_WRITES = ToolAnnotations(read_only_hint=False, open_world_hint=True)


def add_trust(server: MCPServer[Any], tools: Tools, consent: Consent) -> None:
    """Adds the tools that make this node reachable for others, or ask for that."""

    async def may_request(context: Context[Any], node: str) -> Answer | Elicit[Answer]:
        async with telling():
            number = (await tools.address(node)).node
        what = f"ask node {number} ({node}) for trust"
        return consent.question(context, what, f"pilotctl handshake {number}")

    async def request_trust(
        node: Node,
        reason: Annotated[str, Field(description="What the other is told.", max_length=1000)],
        answer: Annotated[ElicitationResult[Answer], Resolve(may_request)],
    ) -> Row:
        """Ask a node for mutual trust, so that private nodes reach each other. The operator has to
        agree."""
        consent.check(answer)
        return await tools.request_trust(node, reason)

    async def may_approve(context: Context[Any], node: str) -> Answer | Elicit[Answer]:
        async with telling():
            number = (await tools.address(node)).node
        what = f"trust node {number}, which can reach this node then"
        return consent.question(context, what, f"pilotctl approve {number}")

    async def approve_trust(
        node: Node, answer: Annotated[ElicitationResult[Answer], Resolve(may_approve)]
    ) -> Row:
        """Grant a node's request for trust: it can reach this node then. The operator has to
        agree."""
        consent.check(answer)
        return await tools.approve_trust(node)

    for tool in (request_trust, approve_trust):
        server.tool(annotations=_WRITES)(tool)


def add_files(server: MCPServer[Any], tools: Tools, consent: Consent) -> None:
    """Adds the tool that sends files."""

    async def may_send(context: Context[Any], node: str, path: str) -> Answer | Elicit[Answer]:
        async with telling():
            source = await tools.shared(path)
            number = (await tools.address(node)).node
        what = f"send the file {source} to node {number} ({node})"
        return consent.question(context, what, f"pilotctl send-file {number} {source}")

    async def send_file(
        node: Node,
        path: Annotated[str, Field(description="Below the folder that the operator shares.")],
        answer: Annotated[ElicitationResult[Answer], Resolve(may_send)],
    ) -> Row:
        """Send a file to a node. It comes from the folder that the operator shares, and the
        operator has to agree."""
        consent.check(answer)
        return await tools.send_file(node, path)

    server.tool(annotations=_WRITES)(send_file)
