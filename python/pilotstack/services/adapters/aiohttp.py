"""A connector of aiohttp whose URLs name agents: ``http://agent-b/`` and ``ws://agent-b/``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pilotstack.errors import PilotError
from pilotstack.services.adapters._dialling import Dialler
from pilotstack.services.adapters._extras import missing

try:
    import aiohttp
except ModuleNotFoundError as error:
    raise missing("aiohttp", error) from error

if TYPE_CHECKING:
    import os

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.tracing import Trace

    from pilotstack.client import Driver

__all__ = ["Connector"]


class Connector(aiohttp.BaseConnector):
    """For :class:`aiohttp.ClientSession`. ``https`` is refused: tunnels are encrypted.

    Args:
        driver: dials; it is not closed with this. Unless given, one of its own is opened when it is
            first needed, and again after the daemon restarted.
        socket_path: the daemon for one of its own.
        limit: connections at once.
        limit_per_host: connections to one agent at once; 0 means ``limit``.
        keepalive_timeout: seconds that a connection waits for its next request.
        force_close: no connection waits.
    """

    allowed_protocol_schema_set = frozenset({"", "http", "ws"})

    def __init__(
        self,
        driver: Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        limit: int = 100,
        limit_per_host: int = 0,
        keepalive_timeout: float = 15.0,
        force_close: bool = False,
    ) -> None:
        super().__init__(
            limit=limit,
            limit_per_host=limit_per_host,
            force_close=force_close,
            keepalive_timeout=None if force_close else keepalive_timeout,
        )
        self._dialler = Dialler(driver, socket_path)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        host, port = req.url.raw_host or "", req.url.port or 80
        try:
            stream = await self._dialler.dial((host, port), timeout.sock_connect)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(str(error)) from error
        except PilotError as error:
            cause = error if isinstance(error, OSError) else OSError(None, str(error))
            raise aiohttp.ClientConnectorError(req.connection_key, cause) from error
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_unix_connection(self._factory, sock=stream.socket())
        return protocol

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Closes its connections, and a driver of its own."""
        await super().close(abort_ssl=abort_ssl)
        await self._dialler.aclose()
