"""The running gateway: local IPs of agents, the ports that listen on them, and the proxy.

A connection to a port of a local IP becomes a stream to the same port of its agent. What maps and
unmaps comes one at a time; a mapping is kept only if its IP and at least one port can be used.
"""

from __future__ import annotations

import errno
import socket as sockets
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events, _serving
from pilotstack.errors import PilotError, Unavailable
from pilotstack.gateway.config import first_free_port, local_port
from pilotstack.gateway.mapping import Row
from pilotstack.services.local import accept_forever
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from pilotstack.client import Driver
    from pilotstack.gateway.aliases import Aliases
    from pilotstack.gateway.config import GatewayConfig
    from pilotstack.gateway.guard import Guard
    from pilotstack.gateway.mapping import IP, Mapped, Mapping
    from pilotstack.gateway.store import Store
    from pilotstack.services.local import LocalStream
    from pilotstack.services.relaying import Carrier

log = _events.get_logger(__name__)

_LOOPBACK: Final = b"lo"
#: ``SO_BINDTODEVICE`` of Linux.
_BIND_TO_DEVICE: Final = getattr(sockets, "SO_BINDTODEVICE", None)


class _Entry:
    """A mapping and its listening sockets."""

    def __init__(self, mapped: Mapped) -> None:
        self.mapped = mapped
        self.listening: dict[int, sockets.socket] = {}
        self.failed: dict[int, str] = {}
        self.scope = anyio.CancelScope()
        self.is_over = anyio.Event()

    def row(self) -> Row:
        """As it is shown."""
        return Row(
            str(self.mapped.local_ip),
            str(self.mapped.address),
            self.mapped.name,
            {port: bound.getsockname()[1] for port, bound in self.listening.items()},
            self.failed,
        )


class Gateway:
    """Mappings that work.

    Args:
        config: ports and privileges.
        driver: resolves names.
        carrier: carries connections.
        aliases: makes local IPs addresses of this host.
        mapping: which IP stands for whom.
        store: keeps that.
        tasks: where ports are served.
        guard: who may connect.
    """

    def __init__(
        self,
        config: GatewayConfig,
        driver: Driver,
        carrier: Carrier,
        aliases: Aliases,
        mapping: Mapping,
        store: Store,
        tasks: TaskGroup,
        guard: Guard,
    ) -> None:
        self._ports = config.ports
        self._first_free = first_free_port() if config.is_unprivileged else None
        self._driver = driver
        self._carrier = carrier
        self._aliases = aliases
        self.mapping = mapping
        self._store = store
        self._tasks = tasks
        self._guard = guard
        self._entries: dict[IP, _Entry] = {}
        self._lock = anyio.Lock()

    def rows(self) -> list[Row]:
        """All mappings, by their local IP."""
        return [
            self._entries[m.local_ip].row() for m in self.mapping if m.local_ip in self._entries
        ]

    async def local_ip(self, address: Address, name: str) -> IP | None:
        """The local IP of an agent, which is mapped if it was not; ``None`` if that is impossible.
        For servers of names."""
        if (known := self.mapping.of_address(address)) is not None:
            return known.local_ip
        try:
            await self.map(name)
        except PilotError as error:
            log.warning("not_mapped", address=str(address), reason=str(error))
        known = self.mapping.of_address(address)
        return None if known is None else known.local_ip

    async def restore(self) -> list[PilotError]:
        """Takes up the mappings that the store kept; returns why some do not work."""
        failures: list[PilotError] = []
        async with self._lock:
            for row in self._store.load(self.mapping):
                log.warning("mapping_lost", ip=str(row.local_ip), address=str(row.address))
            for mapped in self.mapping:
                try:
                    await self._open(mapped)
                except PilotError as error:
                    failures.append(error)
        return failures

    async def map(self, agent: str, ip: IP | None = None) -> Row:
        """Maps an agent; one that is mapped keeps its IP.

        Args:
            agent: its address, node id or name.
            ip: that it shall get; a free one unless given.

        Raises:
            PilotError: there is no such agent or no such IP, or none of its ports can be used.
        """
        host = parse_host(agent)
        is_named = not isinstance(host, Address)
        address = (await self._driver.resolve(host)).address if isinstance(host, str) else host
        async with self._lock:
            if (known := self.mapping.of_address(address)) is not None and (
                entry := self._entries.get(known.local_ip)
            ):
                # It says so if another IP is asked for.
                self.mapping.map(address, ip)
                return entry.row()
            mapped = self.mapping.map(address, ip, agent if is_named else "")
            try:
                entry = await self._open(mapped)
            except BaseException:
                self.mapping.unmap(mapped.local_ip)
                raise
            self._save()
            return entry.row()

    async def unmap(self, what: IP | str) -> Row:
        """Ends a mapping, and the connections to its agent.

        Args:
            what: the local IP, or the agent's address, node id or name.

        Raises:
            NotFound: there is none.
        """
        key: IP | Address
        if isinstance(what, str):
            key = await self._address_of(what)
        else:
            key = what
        async with self._lock:
            mapped = self.mapping.unmap(key)
            # It has no entry if it could not be taken up again at the start.
            entry = self._entries.pop(mapped.local_ip, None) or _Entry(mapped)
            row = entry.row()
            await self._close(entry)
            self._save()
            return row

    async def _address_of(self, agent: str) -> Address:
        host = parse_host(agent)
        if isinstance(host, Address):
            return host
        for mapped in self.mapping:
            # The name may have gone to another node since.
            if mapped.name == host:
                return mapped.address
        return (await self._driver.resolve(host)).address

    def _save(self) -> None:
        try:
            self._store.save(self.mapping)
        except OSError as error:
            log.error("mappings_not_saved", reason=str(error))

    async def _open(self, mapped: Mapped) -> _Entry:
        """Makes the IP an address of this host, and listens on it.

        Raises:
            PilotError: that is impossible.
        """
        entry = _Entry(mapped)
        await self._aliases.add(mapped.local_ip)
        with ExitStack() as stack:
            for port in self._ports:
                try:
                    bound = _listen(mapped.local_ip, local_port(port, self._first_free))
                except (PilotError, OSError) as error:
                    entry.failed[port] = str(error)
                    log.warning(
                        "port_failed", ip=str(mapped.local_ip), port=port, reason=str(error)
                    )
                    continue
                entry.listening[port] = stack.enter_context(bound)
            if not entry.listening:
                await self._aliases.remove(mapped.local_ip)
                reason = next(iter(entry.failed.values()))
                raise Unavailable(
                    f"no port of {mapped.local_ip} can be used: {reason}",
                    hint="if another gateway runs on this host, choose another --subnet",
                )
            stack.pop_all()
        self._entries[mapped.local_ip] = entry
        self._tasks.start_soon(self._serve, entry)
        return entry

    async def _serve(self, entry: _Entry) -> None:
        try:
            with entry.scope:
                async with anyio.create_task_group() as tasks:
                    for port, bound in entry.listening.items():
                        tasks.start_soon(accept_forever, bound, self._handler(entry, port))
        finally:
            for bound in entry.listening.values():
                bound.close()
            await self._aliases.remove(entry.mapped.local_ip)
            entry.is_over.set()

    def _handler(self, entry: _Entry, port: int) -> Callable[[LocalStream], Awaitable[None]]:
        async def handle(local: LocalStream) -> None:
            await self._carrier.outward(local, (entry.mapped.address, port))

        return self._guard.guarded(handle)

    async def _close(self, entry: _Entry) -> None:
        entry.scope.cancel()
        if entry.listening:
            await entry.is_over.wait()


def _listen(ip: IP, port: int) -> sockets.socket:
    """A socket that listens on a local IP, for programs of this host only: Linux takes packets for
    any of its addresses on every interface."""
    family = sockets.AF_INET if ip.version == 4 else sockets.AF_INET6
    listening = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        if _BIND_TO_DEVICE is not None and not ip.is_loopback:
            listening.setsockopt(sockets.SOL_SOCKET, _BIND_TO_DEVICE, _LOOPBACK)
        with suppress(OSError):
            listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind((str(ip), port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EMFILE:
            raise Unavailable(
                "this process may open no more files", hint="raise the limit: ulimit -n 65536"
            ) from error
        raise _serving.bind_error("TCP", str(ip), port, error) from error
    return listening


#: Connections that wait to be accepted.
_BACKLOG: Final = 512
