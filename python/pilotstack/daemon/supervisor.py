"""Composes the daemon: the core's thread, the registry, the control verbs."""

from __future__ import annotations

import ipaddress
import json
import os
from contextlib import AsyncExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from pilotstack import _events, _resolving, _serving, wellknown
from pilotstack._core import Core
from pilotstack.daemon import identity as identities
from pilotstack.daemon.control import LOCAL_VERBS, Control
from pilotstack.daemon.endpoint import IpcSocket
from pilotstack.daemon.networks import NetworkVerbs
from pilotstack.daemon.presence import Presence
from pilotstack.daemon.recent_peers import RecentPeers
from pilotstack.daemon.recent_peers import path_beside as recent_beside
from pilotstack.daemon.records import Records
from pilotstack.daemon.rotation import KeyFiles, Rotation
from pilotstack.daemon.strangers import LANES, StrangerKeys
from pilotstack.daemon.whereabouts import Whereabouts
from pilotstack.errors import InternalError, InvalidArgument, PilotError
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.trust.inbox import InboxReader
from pilotstack.trust.service import TrustService
from pilotstack.trust.store import TrustStore, path_beside

if TYPE_CHECKING:
    from pilotstack._core import _Event
    from pilotstack.daemon.config import DaemonConfig
    from pilotstack.registry.protocol.framing import Message

log = _events.get_logger(__name__)

#: Seconds for the good-bye to the registry.
_FAREWELL = 2.0
#: Seconds between calls to those who talked to us before.
_BETWEEN_CALLS = 0.02
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
        #: Whether nothing can be kept beside the identity.
        self._is_read_only = config.identity is not None and not os.access(
            config.identity.parent, os.W_OK | os.X_OK
        )
        if self._is_read_only:
            log.warning(
                "state_not_kept",
                directory=str(config.identity and config.identity.parent),
                why="the identity's directory is read-only: trust and recent peers are forgotten "
                "at the end, and the key cannot be rotated",
            )
        self.registry = self._new_client()
        self._polls = self._new_client()
        self.hostname = config.hostname
        self.public = config.public
        self.address = ""
        self.node_id = 0
        self.hostname_error = ""
        #: What this node said it can be found by, for a registry that forgot it.
        self.tags: list[str] = []
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
        self._registering = anyio.Lock()
        self._has_asked = False
        self.is_registered = False
        self._control = Control(self)
        self._presence = Presence(self)
        self._whereabouts: Whereabouts
        is_kept = config.identity is not None and not self._is_read_only
        self._recent = RecentPeers(
            recent_beside(config.identity) if config.identity is not None and is_kept else None
        )
        self._questions = anyio.CapacityLimiter(_AT_ONCE)
        self._admissions = anyio.CapacityLimiter(_ADMISSIONS)
        self._requests = anyio.CapacityLimiter(_AT_ONCE)
        self._stopped = anyio.Event()
        self._why = ""

    def _listen_address(self) -> tuple[str, int]:
        default = "::" if _resolving.has_dual_stack() else "0.0.0.0"
        host, port = _serving.split_address(self.config.listen, default_host=default)
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise InvalidArgument(
                f"not an IP address to listen on: {host!r}",
                hint="give one of this host's addresses, or a port only, as :4000",
            ) from error
        return host, port

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
        host, port = self._listen_address()
        store = TrustStore(
            self.config.identity and path_beside(self.config.identity),
            is_read_only=self._is_read_only,
        )
        async with AsyncExitStack() as stack:
            store.lock()
            stack.callback(store.unlock)
            ipc = stack.enter_context(IpcSocket(self.config.socket))
            try:
                self.core = Core(
                    identity_seed=self.identity.seed,
                    seed=os.urandom(32),
                    listen=_serving.join_address(host, port),
                    ipc_fd=ipc.socket.fileno(),
                    has_echo=self.config.has_echo,
                    congestion=self.config.congestion,
                    greeting=json.dumps(greeting),
                )
            except OSError as error:
                raise _serving.bind_error("UDP", host, port, error) from error
            stack.callback(self.core.stop)
            self._whereabouts = Whereabouts(
                self.core,
                self.config.beacon,
                self.config.endpoint,
                lambda: self.registry.connection.address[0],
                self._on_moved,
            )
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
            with anyio.CancelScope() as starting:
                tasks.start_soon(_cancel_when, stopping, starting)
                await self._start(tasks, ipc)
            if starting.cancelled_caught:
                log.info("stopped_while_starting")
            else:
                self._announce(ipc)
                await self._until(stopping)
            self.remember_peers()
            self.core.stop()
        if self._why:
            raise InternalError(f"the core stopped: {self._why}")

    def _announce(self, ipc: IpcSocket) -> None:
        ready: dict[str, object] = {
            "node_id": self.node_id,
            "address": self.address,
            "hostname": self.hostname,
            "socket": str(ipc.path),
            "endpoint": self.endpoint,
            "tunnel": _serving.join_address(*self.core.local_addr()),
            "pid": os.getpid(),
        }
        if self.hostname_error:
            ready["hostname_error"] = self.hostname_error
        _serving.announce(**ready)

    async def _until(self, stopping: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when, stopping, tasks.cancel_scope)
            tasks.start_soon(_cancel_when, self._stopped, tasks.cancel_scope)

    # Start-up, steps 1 to 5 and 7

    async def _start(self, tasks: anyio.abc.TaskGroup, ipc: IpcSocket) -> None:
        tasks.start_soon(self._whereabouts.ask)
        await self._whereabouts.find()
        await self._presence.join()
        log.info("registered", address=self.address, endpoint=self.endpoint)
        await tasks.start(self.trust.port.run, ipc.path)
        tasks.start_soon(self._whereabouts.watch)
        tasks.start_soon(self._presence.keep)
        tasks.start_soon(self.inbox.run)
        tasks.start_soon(self.network_verbs.keep)
        tasks.start_soon(self._call_recent)

    async def enter(self) -> None:
        """Registers for the first time.

        Raises:
            PilotError: the registry refuses, or does not answer.
        """
        self._use(await self._rotation.settle(self.identity, self.endpoint))
        await self.register()

    @_serving.contained
    async def _call_recent(self) -> None:
        """Calls those who talked to us before we were stopped: old peers would look for us at our
        last endpoint for a while. A datagram without content opens a session and is dropped."""
        for peer in self._recent.ids:
            if peer != self.node_id:
                self.core.send_datagram(0, peer, wellknown.ECHO_PORT, b"")
                await anyio.sleep(_BETWEEN_CALLS)

    def remember_peers(self) -> None:
        """Keeps whom there is a session with."""
        with suppress(RuntimeError):
            rows = self.core.snapshot()["peer_list"]
            self._recent.note(row["node_id"] for row in rows if row["authenticated"])
            self._recent.save()

    @property
    def endpoint(self) -> str:
        """Where we say that we are."""
        return self._whereabouts.endpoint

    def _on_moved(self) -> None:
        """Connections that were made from another address may hang: they are made anew."""
        for close in (self.registry.aclose, self._polls.aclose, self._stranger_keys.aclose):
            self._tasks.start_soon(close)
        self.inbox.nudge()
        self._presence.renew()

    def _use(self, identity: identities.Identity) -> None:
        if identity is not self.identity:
            self.identity = self.trust.signer = self._polls.signer = identity
            self.core.set_identity(identity.seed)

    async def register(self) -> str:
        """Registers this node; harmless when it is registered.

        Returns:
            Why the hostname was refused, or an empty text.
        """
        async with self._registering:
            return await self._register()

    async def _register(self) -> str:
        config = self.config
        self._has_asked = True
        registration = await self.registry.register(
            self.endpoint, hostname=self.hostname, owner=config.owner, version=wellknown.VERSION
        )
        has_new_id = registration.node_id != self.node_id
        self.node_id = registration.node_id
        self.address = str(registration.address)
        self.core.set_address(registration.address.network, registration.address.node)
        self.hostname_error = registration.hostname_error
        if registration.hostname_error:
            log.warning("hostname_refused", error=registration.hostname_error)
            self.hostname = ""
        await self.set_visibility(public=self.public)
        self.trust.trust.own = self.node_id
        if has_new_id:
            self._control.forget_names()
            if self.tags:
                await self.registry.set_tags(self.tags)
        await self.refresh_networks()
        self.inbox.set_node(self.node_id)
        self.is_registered = True
        self._tasks.start_soon(self.trust.registered)
        return registration.hostname_error

    async def deregister(self) -> Message:
        """Takes this node off the network until it is registered again."""
        # Before the request, so that no heartbeat in between takes it for a loss.
        self.is_registered = False
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

    async def _leave(self) -> None:
        with anyio.move_on_after(_FAREWELL, shield=True), suppress(PilotError):
            if self._has_asked and not self.node_id:
                # Its answer never came, so it may have been done.
                await self.registry.register(self.endpoint)
            if self._has_asked:
                await self.registry.deregister(keep_memberships=True)
        await self.registry.aclose()

    # Events of the core

    @_serving.endless
    async def _take_events(self, tasks: anyio.abc.TaskGroup) -> None:
        fd = self.core.event_fd()
        while not self._stopped.is_set():
            # What is begun goes on in between: of a flood of requests few are taken at once.
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
                self._whereabouts.heard(_serving.join_address(host, port))
            case ("request", client, request_id, command, payload):
                tasks.start_soon(self._answer, client, request_id, command, payload)
            case ("stopped", why):
                self._why = why
                self._stopped.set()

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


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _resolve(address: str) -> str:
    """``host:port`` with the host as an IP address, one that there is a route to if possible."""
    host, port = _serving.split_address(address)
    found = await _resolving.resolve(host)
    routed = (one for one in found if _resolving.source_towards(one))
    return _serving.join_address(next(routed, found[0]), port)
