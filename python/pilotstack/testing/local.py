"""A network inside of one process: registry and beacon in a thread, and nodes that are embedded."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread
import msgspec

from pilotstack._background import Background

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from pilotstack.daemon.embedded import Settings
    from pilotstack.node import Node
    from pilotstack.sync import Node as SyncNode


class Addresses(msgspec.Struct, frozen=True):
    """Where a rendezvous is found, each as ``host:port``."""

    registry: str
    beacon: str


class _Rendezvous(Background[Addresses]):
    """A registry that keeps its state in memory, and a beacon."""

    def __init__(self) -> None:
        super().__init__("pilot-rendezvous")

    async def _serve(self, stopping: anyio.Event) -> None:
        from pilotstack import _serving
        from pilotstack.beacon import Beacon, BeaconConfig
        from pilotstack.registry.model.policy import Policy
        from pilotstack.registry.server.server import RegistryServer, ServerConfig
        from pilotstack.registry.storage.store import MemoryStore

        with ExitStack() as stack:
            # Nodes of this host prove nothing to it.
            beacon = stack.enter_context(Beacon("127.0.0.1:0", BeaconConfig(proof_ports=(0,))))
            config = ServerConfig(policy=Policy(salt=os.urandom(32)), notify=beacon.notify)
            async with RegistryServer("127.0.0.1", 0, MemoryStore(), config) as server:
                registry = _serving.join_address(*server.address)
                self._serves(Addresses(registry, beacon.address))
                await stopping.wait()


class LocalNetwork:
    """See :func:`network`. Entered with ``async with``, or with ``with`` without an event loop."""

    def __init__(self) -> None:
        self._rendezvous = _Rendezvous()
        self._addresses: Addresses | None = None

    @property
    def registry(self) -> str:
        """``host:port`` of the registry."""
        return self._where.registry

    @property
    def beacon(self) -> str:
        """``host:port`` of the beacon."""
        return self._where.beacon

    @property
    def _where(self) -> Addresses:
        if self._addresses is None:
            raise anyio.ClosedResourceError
        return self._addresses

    def _settings(self, hostname: str, settings: Settings) -> Settings:
        return {
            "registry": self.registry,
            "beacon": self.beacon,
            "listen": "127.0.0.1:0",
            "hostname": hostname,
            "public": True,
            "may_map_port": False,
            **settings,
        }

    def node(self, hostname: str = "", /, **settings: Unpack[Settings]) -> Node:
        """A node of this network, to be entered. Everybody may reach it, unless ``public=False``.

        Args:
            hostname: its name.
            settings: others, as of :class:`pilotstack.Node`.
        """
        from pilotstack.node import Node

        return Node(**self._settings(hostname, settings))

    def sync_node(self, hostname: str = "", /, **settings: Unpack[Settings]) -> SyncNode:
        """The same for code without an event loop: it serves when this returns."""
        from pilotstack.sync import Node

        return Node(**self._settings(hostname, settings))

    def __enter__(self) -> Self:
        self._addresses = self._rendezvous.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._addresses = None
        self._rendezvous.stop()

    async def __aenter__(self) -> Self:
        start = self._rendezvous.start
        try:
            self._addresses = await anyio.to_thread.run_sync(start, abandon_on_cancel=True)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._addresses = None
        await self._stop()

    async def _stop(self) -> None:
        self._rendezvous.request_stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._rendezvous.stop)


def network() -> LocalNetwork:
    """A network in this process, for tests that begin in milliseconds and leave nothing behind::

    async with network() as net, net.node("agent-a") as a, net.node("agent-b") as b:
        ...
    """
    return LocalNetwork()
