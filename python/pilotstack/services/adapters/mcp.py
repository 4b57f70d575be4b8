"""MCP over streams: each message is a line of JSON, as on stdin and stdout.

So an agent's MCP server is reached by any client through ``pilotctl mcp connect``, which only moves
bytes, and by clients in Python through :class:`Transport`.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from pilotstack import wellknown
from pilotstack.client import Driver
from pilotstack.services.adapters._dialling import Dialler
from pilotstack.services.adapters._extras import missing

try:
    import mcp_types
    from mcp.server import MCPServer, Server
    from mcp.shared.message import SessionMessage
except ModuleNotFoundError as error:
    raise missing("mcp", error) from error

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from types import TracebackType

    from anyio.abc import ByteStream, TaskStatus
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from pilotstack.client import Stream
    from pilotstack.types import Target

    Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
    Outgoing = MemoryObjectSendStream[SessionMessage]

__all__ = ["MAX_MESSAGE", "Transport", "messages", "serve"]

#: Bytes of a message at most; a longer one ends the stream.
MAX_MESSAGE: Final = 16 << 20
#: Clients of one server at once.
MAX_CLIENTS: Final = 64

log = logging.getLogger(__name__)


@asynccontextmanager
async def messages(stream: ByteStream) -> AsyncIterator[tuple[Incoming, Outgoing]]:
    """Messages of a stream, as sessions of MCP take them. The stream is closed at the end.

    What is no message comes as an exception, and the session goes on.
    """
    into, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, out_of = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with into:
            try:
                async for line in _lines(stream):
                    await into.send(_parsed(line))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                log.debug("a stream of MCP ended: %s", error)

    async def write() -> None:
        async with out_of:
            async for message in out_of:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await stream.send(text.encode() + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    async with stream, incoming, outgoing, anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        yield incoming, outgoing
        tasks.cancel_scope.cancel()


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _lines(stream: ByteStream) -> AsyncIterator[bytes]:
    """Lines without their ends; the last one only if it has one."""
    pending = bytearray()
    async for chunk in stream:
        searched = len(pending)
        pending += chunk
        while (end := pending.find(b"\n", searched)) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            searched = 0
            if line.strip():
                yield line
        if len(pending) > MAX_MESSAGE:
            log.warning("a message of MCP is longer than %d bytes", MAX_MESSAGE)
            return


class Transport:
    """For ``mcp.Client(Transport("agent-b"))``: the MCP server of an agent.

    Args:
        target: as of :meth:`pilotstack.Driver.dial`; port 1010 if only a host is given.
        driver: dials; unless given, one of its own does.
        socket_path: the daemon for one of its own.
    """

    def __init__(
        self,
        target: Target,
        driver: Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
    ) -> None:
        has_port = not isinstance(target, str) or ":" in target
        self._target: Target = target if has_port else f"{target}:{wellknown.MCP_PORT}"
        self._dialler = Dialler(driver, socket_path)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[Incoming, Outgoing]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._dialler.aclose)
            stream = await self._dialler.dial(self._target)
            found = await stack.enter_async_context(messages(stream))
            self._stack = stack.pop_all()
        return found

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)


async def serve(
    server: MCPServer[Any] | Server[Any],
    port: int = wellknown.MCP_PORT,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves MCP on a port of the overlay until cancelled. Each stream is a session.

    Args:
        server: of the package ``mcp``.
        port: 1 to 65,535.
        driver: listens; unless given, one of its own does, which survives restarts of the daemon.
        socket_path: the daemon for one of its own.
        task_status: of ``TaskGroup.start``, which returns when the port is bound.

    Raises:
        AlreadyExists: the port is taken.
    """
    # The high-level server has no public name for the other.
    low = server._lowlevel_server if isinstance(server, MCPServer) else server
    seats = anyio.CapacityLimiter(MAX_CLIENTS)

    async def handle(stream: Stream) -> None:
        try:
            seats.acquire_nowait()
        except anyio.WouldBlock:
            await stream.aclose()
            return
        try:
            async with messages(stream) as (incoming, outgoing):
                await low.run(incoming, outgoing, low.create_initialization_options())
        finally:
            seats.release()

    async with AsyncExitStack() as stack:
        if driver is None:
            driver = await stack.enter_async_context(Driver(socket_path, reconnect=True))
        listener = await stack.enter_async_context(driver.listen(port))
        task_status.started()
        await listener.serve(handle)
