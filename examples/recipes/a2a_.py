"""A2A by a2a-sdk, at both ends: the agent card names ``http://agent-b/``, and httpx dials it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_message_text, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Role,
    SendMessageRequest,
)
from starlette.applications import Starlette

import pilotstack.asgi
import pilotstack.httpx

if TYPE_CHECKING:
    from a2a.server.events import EventQueue


class Shouter(AgentExecutor):
    """Answers messages in capitals."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Answers one."""
        await event_queue.enqueue_event(new_text_message(context.get_user_input().upper()))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """There is nothing to cancel."""


async def serve(socket: str, port: int, url: str) -> None:
    """Serves until cancelled; ``url`` is this agent's."""
    card = AgentCard(
        name="shouter",
        description="answers in capitals",
        version="1",
        capabilities=AgentCapabilities(),
        default_input_modes=["text"],
        default_output_modes=["text"],
        supported_interfaces=[
            AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url=f"{url}/a2a")
        ],
        skills=[AgentSkill(id="shout", name="shout", description="shouts", tags=["text"])],
    )
    handler = DefaultRequestHandler(Shouter(), InMemoryTaskStore(), card)
    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/a2a")]
    app = Starlette(routes=routes)
    await pilotstack.asgi.serve(app, port, socket_path=socket, log_level="warning")


async def ask(socket: str, url: str, message: str) -> str:
    """The answer to a message."""
    transport = pilotstack.httpx.AsyncTransport(socket_path=socket)
    async with httpx.AsyncClient(transport=transport) as http:
        client = await create_client(url, ClientConfig(httpx_client=http, streaming=False))
        request = SendMessageRequest(message=new_text_message(message, role=Role.ROLE_USER))
        async for event in client.send_message(request):
            return get_message_text(event.message)
    raise EOFError("no answer")
