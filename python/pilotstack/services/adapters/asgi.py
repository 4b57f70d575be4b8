"""ASGI applications on the overlay, with uvicorn as the engine, and who asks them.

Each connection's scope has the peer in ``scope["client"]`` (address as text, port) and, where no
header of a proxy can change it, in ``scope["extensions"]["pilot"]``; :func:`peer_of` reads that.
The tunnel has proved the address by the peer's key.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from pilotstack import wellknown
from pilotstack.client import Driver
from pilotstack.errors import NotRunning
from pilotstack.services.adapters._extras import missing
from pilotstack.types import Address

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise missing("serve", error) from error

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from pilotstack.client import Listener, Stream

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    #: An application, or where to import it from: ``"module:name"``.
    Application = App | str

__all__ = ["EXTENSION", "Peer", "Server", "peer_of", "serve"]

#: Seconds that requests have to finish at the end, unless told otherwise.
_GRACE = 10
#: The key in ``scope["extensions"]``.
EXTENSION = "pilot"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request. The address is proved, the port is chosen by the peer."""

    address: Address
    port: int

    @property
    def node_id(self) -> int:
        """The peer's node id."""
        return self.address.node


def peer_of(scope: Mapping[str, Any]) -> Peer | None:
    """Who sent a request; ``None`` if it did not come over the overlay."""
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return None if found is None else Peer(Address.parse(found["address"]), found["port"])


class _Known:
    """An application that is told who is at the other end of one connection."""

    def __init__(self, app: App, stream: Stream) -> None:
        self._app = app
        local, remote = stream.local_address, stream.remote_address
        self._client = (str(remote.address), remote.port)
        self._server = (str(local.address), local.port)
        self._node_id = remote.address.node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address, port = self._client
        peer = {"address": address, "node_id": self._node_id, "port": port}
        scope["client"], scope["server"] = self._client, self._server
        scope["extensions"] = {**(scope.get("extensions") or {}), EXTENSION: peer}
        await self._app(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn's server, which takes streams of a listener instead of TCP connections.

    Args:
        config: uvicorn's settings. Those of sockets do not matter, and what headers say about the
            client is not believed.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        if not config.loaded:
            config.proxy_headers = False
        super().__init__(config)
        self._has_started = asyncio.Event()
        #: Called when the application has started.
        self.on_started: Callable[[], object] = lambda: None

    async def serve_listener(self, listener: Listener) -> None:
        """Serves a listener until told to exit, by SIGINT or SIGTERM in the main thread, or until
        cancelled, which lets the application end, too.

        Raises:
            NotRunning: the daemon went away, and the driver does not reconnect.
        """
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(self._accept(listener))
            serving = tasks.create_task(self.serve(sockets=[]))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                self.should_exit = True
                await asyncio.wait({serving})
                raise
            finally:
                accepting.cancel()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Starts the application; streams are taken from then on."""
        await super().startup(sockets)
        self._has_started.set()
        self.on_started()

    async def _accept(self, listener: Listener) -> None:
        await self._has_started.wait()
        loop = asyncio.get_running_loop()
        try:
            async for stream in listener:
                with suppress(OSError, anyio.ClosedResourceError):
                    await loop.connect_accepted_socket(self._protocol_of(stream), stream.socket())
        except NotRunning:
            self.should_exit = True
            raise

    def _protocol_of(self, stream: Stream) -> Callable[[], asyncio.Protocol]:
        config = copy.copy(self.config)
        config.loaded_app = _Known(self.config.loaded_app, stream)
        kind: Callable[..., asyncio.Protocol] = config.http_protocol_class

        def protocol() -> asyncio.Protocol:
            state = self.lifespan.state
            return kind(config=config, server_state=self.server_state, app_state=state)

        return protocol


async def serve(
    app: Application,
    port: int = wellknown.HTTP_PORT,
    *,
    driver: Driver | None = None,
    socket_path: str | os.PathLike[str] | None = None,
    on_listening: Callable[[int], object] | None = None,
    **settings: Any,
) -> None:
    """Serves an application on a port of the overlay until cancelled, or by SIGINT or SIGTERM. On
    asyncio and uvloop.

    Args:
        app: an ASGI application, or ``"module:name"``.
        port: 1 to 65,535, or 0 for any that is free.
        driver: listens; unless given, one of its own does, which survives restarts of the daemon.
        socket_path: the daemon for one of its own.
        on_listening: called with the port once the application takes requests.
        settings: as of :class:`uvicorn.Config`.

    Raises:
        AlreadyExists: the port is taken.
        NotRunning: no daemon answers.
    """
    config = uvicorn.Config(app, **{"timeout_graceful_shutdown": _GRACE, **settings})
    config.proxy_headers = False
    # Before it listens: an application that cannot be imported serves nobody.
    config.load()
    server = Server(config)
    async with AsyncExitStack() as stack:
        if driver is None:
            driver = await stack.enter_async_context(Driver(socket_path, reconnect=True))
        listener = await stack.enter_async_context(driver.listen(port))
        if on_listening is not None:
            server.on_started = lambda: on_listening(listener.port)
        await server.serve_listener(listener)
