"""Composes the daemon: the core's thread, the registry, the control verbs."""

from __future__ import annotations

import json
import os
import socket
from contextlib import AsyncExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import structlog

from pilotstack import _serving, wellknown
from pilotstack._core import Core
from pilotstack.daemon import identity as identities
from pilotstack.daemon.control import LOCAL_VERBS, Control
from pilotstack.daemon.endpoint import IpcSocket
from pilotstack.daemon.networks import NetworkVerbs
from pilotstack.daemon.records import Records
from pilotstack.daemon.rotation import KeyFiles, Rotation
from pilotstack.daemon.strangers import LANES, StrangerKeys
from pilotstack.errors import ConnectionFailed, InternalError, NotFound, PilotError
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.trust.inbox import InboxReader
from pilotstack.trust.service import TrustService
from pilotstack.trust.store import TrustStore, path_beside

if TYPE_CHECKING:
    from pilotstack._core import _Event
    from pilotstack.daemon.config import DaemonConfig
    from pilotstack.registry.messages import Message

log = structlog.get_logger(__name__)

#: Seconds to wait for the beacon (whitepaper, start-up step 1).
_DISCOVERY = 5.0
#: Seconds between attempts to register at the start.
_ATTEMPTS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Seconds for the good-bye to the registry.
_FAREWELL = 2.0
#: Questions of our own to the registry and to the control plane at once, and those about peers that
#: want in.
_AT_ONCE = 256
_ADMISSIONS = 16


class Daemon:
    """One agent's network stack.

    Args:
        config: its settings.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        if config.identity is None:
            self.identity = identities.Identity.generate()
        else:
            self.identity = identities.load_or_create(config.identity)
        self.registry = self._new_client()
        self._polls = self._new_client()
        self.hostname = config.hostname
        self.public = config.public
        self.address = ""
        self.node_id = 0
        self.endpoint = config.endpoint
        self.networks: frozenset[int] = frozenset()
        self.records = Records(self.registry)
        self.core: Core
        self.trust: TrustService
        self.inbox: InboxReader
        self._tasks: anyio.abc.TaskGroup
        self._stranger_keys: StrangerKeys
        self.network_verbs = NetworkVerbs(self)
        self._rotation = Rotation(KeyFiles(config.identity), self.registry)
        self._changing_key = anyio.Lock()
        self._is_registered = False
        self._control = Control(self)
        self._discovered = anyio.Event()
        self._questions = anyio.CapacityLimiter(_AT_ONCE)
        self._admissions = anyio.CapacityLimiter(_ADMISSIONS)
        self._requests = anyio.CapacityLimiter(_AT_ONCE)
        self._stopped = anyio.Event()
        self._why = ""

    def _new_client(self) -> RegistryClient:
        config = self.config
        return RegistryClient(
            parse_addresses(config.registry), self.identity, tls=config.registry_trust
        )

    async def run(self, stopping: anyio.Event) -> None:
        """Starts up, serves until ``stopping`` is set, and leaves nothing behind.

        Raises:
            AlreadyExists: another daemon serves the socket.
            ConnectionFailed: the registry does not answer.
            InternalError: the core failed.
        """
        greeting = {"version": wellknown.VERSION, "features": ["streams", "paths", "datagrams"]}
        host, port = _serving.split_address(self.config.listen, default_host="0.0.0.0")
        store = TrustStore(self.config.identity and path_beside(self.config.identity))
        async with AsyncExitStack() as stack:
            store.lock()
            stack.callback(store.unlock)
            ipc = stack.enter_context(IpcSocket(self.config.socket))
            self.core = Core(
                identity_seed=self.identity.seed,
                seed=os.urandom(32),
                listen=_serving.join_address(host, port),
                ipc_fd=ipc.socket.fileno(),
                has_echo=self.config.has_echo,
                congestion=self.config.congestion,
                greeting=json.dumps(greeting),
            )
            stack.callback(self.core.stop)
            self.trust = TrustService(
                self.registry,
                self.identity,
                self.core,
                store,
                self.records.profile,
                self.records.forget,
            )
            self._stranger_keys = StrangerKeys(
                [self._new_client() for _ in range(LANES)],
                self.records,
                self.trust.key_seen,
                self.core.on_key,
            )
            stack.push_async_callback(self._stranger_keys.aclose)
            self.inbox = InboxReader(self._polls, self.trust)
            self.trust.on_request = self.inbox.expect
            stack.push_async_callback(self.inbox.aclose)
            stack.push_async_callback(self._leave)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            self._tasks = tasks
            tasks.start_soon(self._take_events, tasks)
            self.trust.start(tasks)
            await self._join()
            await tasks.start(self.trust.port.run, ipc.path)
            tasks.start_soon(self._keep_alive)
            tasks.start_soon(self.inbox.run)
            tasks.start_soon(self.network_verbs.keep)
            _serving.announce(
                node_id=self.node_id,
                address=self.address,
                hostname=self.hostname,
                socket=str(ipc.path),
                endpoint=self.endpoint,
                tunnel=_serving.join_address(*self.core.local_addr()),
                pid=os.getpid(),
            )
            await self._until(stopping)
            self.core.stop()
        if self._why:
            raise InternalError(f"the core stopped: {self._why}")

    async def _until(self, stopping: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch, stopping)
            tasks.start_soon(watch, self._stopped)

    # Start-up, steps 1 to 5 and 7

    async def _join(self) -> None:
        await self._discover()
        for delay in (*_ATTEMPTS, None):
            try:
                self._use(await self._rotation.settle(self.identity, self.endpoint))
                await self.register()
                break
            except ConnectionFailed as error:
                if delay is None:
                    raise
                log.warning("registry_unreachable", error=str(error), retry_in=delay)
                await anyio.sleep(delay)
        log.info("registered", address=self.address, endpoint=self.endpoint)

    async def _discover(self) -> None:
        """Asks the beacon where our datagrams come from; without an answer the local address has
        to do."""
        if self.config.beacon and not self.endpoint:
            try:
                beacon = await _resolve(self.config.beacon)
                self.core.set_beacons([beacon])
                with anyio.fail_after(_DISCOVERY):
                    await self._discovered.wait()
            except (TimeoutError, OSError, PilotError) as error:
                log.warning("beacon_unreachable", beacon=self.config.beacon, error=str(error))
        if not self.endpoint:
            self.endpoint = _serving.join_address(*self.core.local_addr())

    def _use(self, identity: identities.Identity) -> None:
        if identity is not self.identity:
            self.identity = self.trust.signer = self._polls.signer = identity
            self.core.set_identity(identity.seed)

    async def register(self) -> str:
        """Registers this node; harmless when it is registered.

        Returns:
            Why the hostname was refused, or an empty text.
        """
        config = self.config
        registration = await self.registry.register(
            self.endpoint, hostname=self.hostname, owner=config.owner, version=wellknown.VERSION
        )
        self.node_id = registration.node_id
        self.address = str(registration.address)
        self.core.set_address(registration.address.network, registration.address.node)
        if registration.hostname_error:
            log.warning("hostname_refused", error=registration.hostname_error)
            self.hostname = ""
        await self.set_visibility(public=self.public)
        self.trust.trust.own = self.node_id
        await self.refresh_networks()
        self.inbox.set_node(self.node_id)
        self._is_registered = True
        self._tasks.start_soon(self.trust.registered)
        return registration.hostname_error

    async def deregister(self) -> Message:
        """Takes this node off the network until it is registered again."""
        # Before the request, so that no heartbeat in between takes it for a loss.
        self._is_registered = False
        reply = await self.registry.deregister()
        self._set_networks(frozenset())
        return reply

    async def rotate_key(self) -> Message:
        """Replaces this node's key.

        Raises:
            PilotError: see :meth:`Rotation.rotate`.
        """
        async with self._changing_key:
            identity, reply = await self._rotation.rotate()
            self._use(identity)
        log.info("key_rotated", public_key=reply.get("public_key"))
        return reply

    async def set_visibility(self, *, public: bool) -> dict[str, Any]:
        """Lets everybody reach us, or only those whom we trust and our networks."""
        # Before the registry knows when it closes, after it knows when it opens.
        if not public:
            self.core.set_private(True)
        reply = await self.registry.set_visibility(public=public)
        self.core.set_private(not public)
        self.public = public
        return reply

    async def refresh_networks(self) -> None:
        """Learns from the registry which networks we are in; whoever changes that calls this."""
        self.records.forget(self.node_id)
        with suppress(PilotError):
            record = await self.records.profile(self.node_id)
            self._set_networks(record.networks)

    def _set_networks(self, networks: frozenset[int]) -> None:
        self.networks = self.trust.trust.networks = networks
        self.core.set_networks(sorted(networks - {0}))

    @_serving.endless
    async def _keep_alive(self) -> None:
        while True:
            await anyio.sleep(self.config.keepalive)
            if not self._is_registered:
                continue
            try:
                await self.registry.heartbeat()
                await self.trust.alive()
            except NotFound:
                log.warning("registration_lost")
                with suppress(PilotError):
                    await self.register()
            except PilotError as error:
                log.warning("heartbeat_failed", error=str(error))

    async def _leave(self) -> None:
        with anyio.move_on_after(_FAREWELL, shield=True), suppress(PilotError):
            if self.node_id:
                await self.registry.deregister(keep_memberships=True)
        await self.registry.aclose()

    # Events of the core

    @_serving.endless
    async def _take_events(self, tasks: anyio.abc.TaskGroup) -> None:
        fd = self.core.event_fd()
        while not self._stopped.is_set():
            await anyio.wait_readable(fd)
            for event in self.core.take_events():
                self._take(event, tasks)

    def _take(self, event: _Event, tasks: anyio.abc.TaskGroup) -> None:
        match event:
            case ("record_needed", node):
                tasks.start_soon(self._find_record, node)
            case ("key_needed", node):
                tasks.start_soon(self._stranger_keys.name, node)
            case ("admission_needed", node, network, key):
                tasks.start_soon(self._admit, node, network, key)
            case ("endpoint", host, port):
                self._on_endpoint(_serving.join_address(host, port), tasks)
            case ("request", client, request_id, command, payload):
                tasks.start_soon(self._answer, client, request_id, command, payload)
            case ("stopped", why):
                self._why = why
                self._stopped.set()

    def _on_endpoint(self, endpoint: str, tasks: anyio.abc.TaskGroup) -> None:
        if self.config.endpoint:
            return
        has_moved = self._discovered.is_set() and endpoint != self.endpoint
        self.endpoint = endpoint
        self._discovered.set()
        if has_moved and self._is_registered:
            log.info("moved", endpoint=endpoint)
            tasks.start_soon(self._register_again)

    @_serving.contained
    async def _register_again(self) -> None:
        with suppress(PilotError):
            await self.register()

    @_serving.contained
    async def _find_record(self, node: int) -> None:
        async with self._questions:
            try:
                await self.find_peer(node)
            except (PilotError, OSError, ValueError) as error:
                log.debug("no_record", node=node, error=str(error))
                self.core.on_no_record(node)
            except Exception:
                # Without an answer, the core would never ask again.
                self.core.on_no_record(node)
                raise

    async def find_peer(self, node: int) -> None:
        """Learns from the registry who a node is and where, and tells the core.

        Raises:
            PilotError: the registry does not know it, or does not answer.
            OSError: the name of its host is unknown.
            ValueError: its endpoint makes no sense.
        """
        record = await self.records.resolved(node)
        await self.trust.key_seen(node, record.public_key)
        endpoint = await _resolve(record.endpoint) if record.endpoint else None
        self.core.on_record(node, record.public_key, endpoint)

    @_serving.contained
    async def _admit(self, node: int, network: int, key: bytes) -> None:
        async with self._admissions:
            await self.trust.admit(node, network, key)

    @_serving.contained
    async def _answer(
        self, client: int, request_id: int | None, command: int, payload: bytes
    ) -> None:
        # What asks nobody else does not wait for those that do.
        limiter = nullcontext() if command in LOCAL_VERBS else self._requests
        async with limiter:
            try:
                has_id = request_id is not None
                body = await self._control.answer(command, payload, has_id=has_id)
            except PilotError as error:
                self.core.fail(client, request_id, error.code, error.message, error.hint or "")
            except Exception as error:
                log.exception("control_failed", command=command)
                self.core.fail(client, request_id, "internal", str(error), "")
            else:
                self.core.reply(client, request_id, body)


async def _resolve(address: str) -> str:
    """``host:port`` with the host as an IP address."""
    host, port = _serving.split_address(address)
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family_first = sorted(found, key=lambda row: row[0])
    return _serving.join_address(str(family_first[0][4][0]), port)
