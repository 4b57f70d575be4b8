"""Composes the daemon: the core's thread, the registry, trust, and the verbs of its socket."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio
import anyio.abc

from pilotstack import _events, _resolving, _serving, wellknown
from pilotstack._core import Core
from pilotstack.daemon import identity as identities
from pilotstack.daemon import snapshot as snapshots
from pilotstack.daemon.beacons import Beacons, parse_beacons
from pilotstack.daemon.builtins import Builtins
from pilotstack.daemon.candidates import Candidates
from pilotstack.daemon.config import files_folder, parse_networks
from pilotstack.daemon.core_events import CoreEvents
from pilotstack.daemon.ipc_socket import IpcSocket
from pilotstack.daemon.names import Names
from pilotstack.daemon.other_names import OtherNames
from pilotstack.daemon.peers import PeerFinder
from pilotstack.daemon.port_mapping import PortMappings, why_off
from pilotstack.daemon.presence import Presence
from pilotstack.daemon.public_endpoint import Announced, Changes, PublicEndpoint
from pilotstack.daemon.ready import Ready
from pilotstack.daemon.recent_peers import RecentPeers
from pilotstack.daemon.records import Records
from pilotstack.daemon.registrar import Registrar
from pilotstack.daemon.rotation import KeyFiles, Rotation
from pilotstack.daemon.state import NodeState
from pilotstack.daemon.strangers import LANES, StrangerKeys
from pilotstack.daemon.verbs.control import Control
from pilotstack.daemon.verbs.envelopes import EnvelopeVerbs
from pilotstack.daemon.verbs.networks import NetworkVerbs
from pilotstack.daemon.verbs.node import Handshakes, NodeVerbs
from pilotstack.daemon.verbs.routes import RouteVerbs
from pilotstack.daemon.verbs.table import Table
from pilotstack.daemon.verbs.trust import TrustVerbs
from pilotstack.errors import InternalError, InvalidArgument, PilotError
from pilotstack.ipc.answers import RegistryInfo, Relayed
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.trust.inbox import InboxReader
from pilotstack.trust.service import TrustService
from pilotstack.trust.store import TrustStore, path_beside, shared_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.client import Place
    from pilotstack.daemon.config import DaemonConfig
    from pilotstack.daemon.identity import Identity
    from pilotstack.daemon.in_thread import InThread
    from pilotstack.daemon.pages import Served

log = _events.get_logger(__name__)

#: The logger of what happens in tunnels and connections, and its level for single packets.
_CORE_LOG: Final = logging.getLogger("pilot_net.trace")
_PACKET_LEVEL: Final = 5


def _trace_detail() -> Literal["events", "packets"] | None:
    """What the core records for the log, by the level of its logger."""
    if _CORE_LOG.isEnabledFor(_PACKET_LEVEL):
        return "packets"
    return "events" if _CORE_LOG.isEnabledFor(logging.DEBUG) else None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"cannot make the folder {path}: {error.strerror}", hint="name another one with --qlog"
        ) from error


#: Seconds between contacts to peers from before a restart.
_BETWEEN_CALLS: Final = 0.02
#: Seconds between checks of our memberships, which others can change.
_NETWORKS_AGAIN: Final = 300.0


def announce(ready: Ready) -> None:
    """Prints what whoever started the daemon waits for."""
    _serving.announce(**ready.members())


class Daemon:
    """One agent's network stack.

    Args:
        config: its settings.
        on_ready: called when it serves; prints a line of JSON unless given.
        embedded: takes the drivers of this process, instead of a socket that takes those of others.
    """

    def __init__(
        self,
        config: DaemonConfig,
        on_ready: Callable[[Ready], object] = announce,
        *,
        embedded: InThread | None = None,
    ) -> None:
        self.config = config
        self._on_ready = on_ready
        self._embedded = embedded
        # Before the identity is made: a new one has no trust to inherit.
        inherited = config.identity and shared_beside(config.identity)
        if config.identity is None:
            identity = identities.Identity.generate()
        else:
            identity = identities.load_or_create(config.identity)
        self._state = NodeState(
            identity,
            hostname=config.hostname,
            owner=config.owner,
            public=config.public,
            is_ephemeral=config.ephemeral,
        )
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
        self._recent = RecentPeers(self._kept("peers"))
        self._store = TrustStore(
            config.identity and path_beside(config.identity),
            is_read_only=self._is_read_only,
            inherited=inherited,
            own_key=identity.public_key,
        )

    def _kept(self, kind: str) -> Path | None:
        """The file of other state; ``None`` if nothing can be kept."""
        identity = self.config.identity
        if identity is None or self._is_read_only:
            return None
        return identities.beside(identity, kind)

    def _listen_address(self) -> tuple[str, int]:
        default_host = _resolving.any_host()
        host, port = _serving.split_address(self.config.listen, default_host=default_host)
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise InvalidArgument(
                f"not an IP address to listen on: {host!r}",
                hint="give one of this host's addresses, or a port only, as :4000",
            ) from error
        return host, port

    async def run(self, stopping: anyio.Event) -> None:
        """Starts up, serves until ``stopping`` is set, and leaves nothing behind.

        Raises:
            AlreadyExists: another daemon serves the socket.
            ConnectionFailed: the registry does not answer.
            InternalError: the core failed.
        """
        host, port = self._listen_address()
        if self.config.qlog:
            _make_folder(self.config.qlog)
        async with AsyncExitStack() as stack:
            self._store.lock()
            stack.callback(self._store.unlock)
            core, place = self._start_core(host, port, stack)
            running = _Running(
                *(self.config, self._state, core, self._store, self._recent, self._kept)
            )
            stack.push_async_callback(running.aclose)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            running.begin(tasks)
            served = None
            if self.config.http:
                served = await stack.enter_async_context(self._served(core, running, place, stack))
                tasks.start_soon(_serving.keep_running, "http", served.server.serve)
            with anyio.CancelScope() as starting:
                tasks.start_soon(_cancel_when, stopping, starting)
                await running.start(place)
            if starting.cancelled_caught:
                log.info("stopped_while_starting")
            else:
                self._announce(core, running, place, served)
                await _first_of(stopping, running.events.stopped)
            running.remember_peers()
            core.stop()
        if why := running.events.why:
            raise InternalError(f"the core stopped: {why}")

    def _start_core(self, host: str, port: int, stack: AsyncExitStack) -> tuple[Core, Place]:
        """The core, which ends with ``stack``, and where it takes drivers."""
        if self._embedded is not None:
            core = self._new_core(host, port, None)
            stack.callback(core.stop)
            stack.enter_context(self._embedded.serving(core))
            return core, self._embedded
        ipc = stack.enter_context(IpcSocket(self.config.socket))
        core = self._new_core(host, port, ipc.socket.fileno())
        stack.callback(core.stop)
        return core, ipc.path

    def _new_core(self, host: str, port: int, ipc_fd: int | None) -> Core:
        greeting = {"version": wellknown.VERSION, "features": ["streams", "paths", "datagrams"]}
        try:
            return Core(
                identity_seed=self._state.identity.seed,
                seed=os.urandom(32),
                listen=_serving.join_address(host, port),
                ipc_fd=ipc_fd,
                has_echo=self.config.has_echo,
                congestion=self.config.congestion,
                greeting=json.dumps(greeting),
                trace=_trace_detail(),
                qlog=self.config.qlog,
            )
        except OSError as error:
            raise _serving.bind_error("UDP", host, port, error) from error

    def _served(self, core: Core, running: _Running, place: Place, stack: AsyncExitStack) -> Served:
        from pilotstack.daemon.pages import Parts, Served
        from pilotstack.observe.recent import Recent

        recent = stack.enter_context(Recent())
        parts = Parts(
            self._state,
            core,
            dropped=running.dropped,
            waiting=running.waiting,
            checks=running.checks,
            beacons=lambda: tuple(running.public_endpoint.beacons),
            trusted=running.trusted,
            recent=recent,
        )
        # Without a socket there is no directory that belongs to this daemon.
        link = place.with_name(f"{place.name}.http") if isinstance(place, Path) else None
        return Served(self.config.http, parts, link)

    def _announce(self, core: Core, running: _Running, place: Place, served: Served | None) -> None:
        state = self._state
        ready = Ready(
            node_id=state.node_id,
            address=str(state.address),
            hostname=state.hostname,
            socket=str(place),
            endpoint=running.public_endpoint.endpoint,
            tunnel=_serving.join_address(*core.local_addr()),
            pid=os.getpid(),
            http=served.address if served else "",
            dashboard=str(served.link or "") if served else "",
            hostname_error=state.hostname_error,
        )
        self._on_ready(ready)


class _Running:
    """The parts of a daemon whose core runs. It is what follows the node's registration."""

    def __init__(
        self,
        config: DaemonConfig,
        state: NodeState,
        core: Core,
        store: TrustStore,
        recent: RecentPeers,
        kept: Callable[[str], Path | None],
    ) -> None:
        self._state = state
        self._core = core
        self._recent = recent
        self._wanted = parse_networks(config.networks)
        self._registry = _new_client(config, state)
        self._polls = _new_client(config, state)
        records = Records(self._registry)
        others = OtherNames(config.names, lambda: self._builtins.driver)
        self._names = Names(self._registry, others.resolve)
        self.public_endpoint = self._endpoints(config, kept("beacons"))
        self._mappings = PortMappings(
            state,
            core.local_addr(),
            lambda: self.public_endpoint.seen,
            self._on_mapped,
            off=why_off(config),
        )
        self._trust = TrustService(
            self._registry, state.identity, core, store, records.profile, records.forget
        )
        self._builtins = Builtins(config, state, self._names.hostname, kept)
        self._trust.trust.approves_all = config.trust_auto_approve
        self._inbox = InboxReader(self._polls, self._trust)
        self._trust.on_request = self._inbox.expect
        self._strangers = StrangerKeys(
            [_new_client(config, state) for _ in range(LANES)],
            records,
            self._trust.key_seen,
            core.on_key,
            ours=self._registry.profile,
        )
        endpoints = self.public_endpoint
        peers = PeerFinder(
            records,
            self._trust.key_seen,
            core,
            lambda: (endpoints.endpoint, endpoints.bound[0]),
            is_relay_only=config.relay_only,
        )
        self._registrar = Registrar(
            state,
            self._registry,
            core,
            records,
            Rotation(KeyFiles(config.identity), self._registry),
            self._announced,
            self,
        )
        self._inbox.on_removed = self._registrar.refresh_networks
        self._trust.ports_of = self._registrar.policies.union
        self._presence = Presence(
            self._registrar, config.keepalive, self._trust.alive, self.remember_peers
        )
        #: Nothing is answered before the node is registered.
        self._is_starting = True
        table = self._verbs(config, records, peers)
        self.events = CoreEvents(
            core,
            peers,
            self._strangers,
            self._trust,
            self._registrar,
            Control(table, lambda: self._is_starting),
            self.public_endpoint.heard,
        )
        self._tasks: anyio.abc.TaskGroup

    def _endpoints(self, config: DaemonConfig, beacons_file: Path | None) -> PublicEndpoint:
        registry = lambda: self._registry.connection.address[0]  # noqa: E731
        self._beacons = Beacons(
            parse_beacons(config.beacon),
            self._registry.beacons,
            registry,
            self._state.identity.public_key,
            beacons_file,
        )
        bound = self._core.local_addr()
        # An operator who states the endpoint wants peers there, and nowhere else.
        is_hidden = config.relay_only or bool(config.endpoint)
        self._own = Candidates(bound, self._core.set_candidates, is_hidden=is_hidden)
        return PublicEndpoint(
            self._core,
            self._beacons,
            self._own,
            registry,
            Changes(self._on_moved, lambda: self._presence.renew()),
            fixed=config.endpoint,
            is_relay_only=config.relay_only,
        )

    def _verbs(self, config: DaemonConfig, records: Records, peers: PeerFinder) -> Table:
        table, trust, inbox = Table(), self._trust, self._inbox
        handshakes = Handshakes(
            lambda: len(trust.trust.rows.pending),
            lambda: Relayed(**inbox.taken),
            lambda: trust.dropped,
            lambda: self._builtins.dropped,
        )
        NodeVerbs(
            self._registrar,
            self._names,
            self._core,
            handshakes,
            beacons=lambda: self.public_endpoint.beacons or self._beacons.addresses,
            is_kept=config.identity is not None,
            registry=_registry_info(config),
            files=str(files_folder(config).absolute()) if config.has_data_exchange else "",
        ).add_to(table)
        TrustVerbs(trust, inbox).add_to(table)
        NetworkVerbs(
            self._state, self._registry, self._core, self._registrar, config.admin_token
        ).add_to(table)
        EnvelopeVerbs(self._state, records.profile, trust.trust).add_to(table)
        RouteVerbs(peers.find_again, self._core, self._open_tunnel, peers.outcome).add_to(table)
        return table

    async def aclose(self) -> None:
        """Deregisters, closes connections to the registry, and removes the port mapping."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._mappings.aclose)
            await self._registrar.leave()
        for close in (self._registry.aclose, self._inbox.aclose, self._strangers.aclose):
            await close()

    # Start-up, in the order of docs/reference/daemon.md

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Takes events of the core, in tasks of this group."""
        self._tasks = tasks
        tasks.start_soon(self.events.take, tasks)
        self._trust.start(tasks)

    async def start(self, place: Place) -> None:
        """Registers the node and begins to serve.

        Raises:
            ConnectionFailed: the registry does not answer.
        """
        tasks = self._tasks
        tasks.start_soon(self.public_endpoint.ask)
        await self.public_endpoint.find()
        await self._presence.join()
        self._is_starting = False
        log.info(
            "registered", address=str(self._state.address), endpoint=self.public_endpoint.endpoint
        )
        await tasks.start(self._trust.port.run, place)
        await tasks.start(self._builtins.run, place)
        tasks.start_soon(self.public_endpoint.watch)
        tasks.start_soon(self._beacons.keep, self.public_endpoint.beacons_changed)
        tasks.start_soon(self._mappings.keep)
        tasks.start_soon(self._presence.keep)
        tasks.start_soon(self._inbox.run)
        tasks.start_soon(self._keep_networks)
        tasks.start_soon(self._join_networks)
        tasks.start_soon(self._call_recent)

    @_serving.endless
    async def _keep_networks(self) -> None:
        while True:
            await anyio.sleep(_NETWORKS_AGAIN)
            await self._registrar.refresh_networks()

    @_serving.contained
    async def _join_networks(self) -> None:
        for network in self._wanted - self._state.networks:
            try:
                await self._registry.join_network(network)
            except PilotError as error:
                log.warning("network_not_joined", network=network, error=error.message)
        if self._wanted - self._state.networks:
            await self._registrar.refresh_networks()

    @_serving.contained
    async def _call_recent(self) -> None:
        """Contacts peers from before the restart, because old peers would use our last endpoint for
        a while."""
        for peer in self._recent.ids:
            if peer != self._state.node_id:
                self._open_tunnel(peer)
                await anyio.sleep(_BETWEEN_CALLS)

    def _open_tunnel(self, node: int) -> None:
        """Has the core set up a session; the empty datagram itself is dropped."""
        self._core.send_datagram(0, node, wellknown.ECHO_PORT, b"")

    # For monitoring

    def dropped(self) -> dict[str, int]:
        """What the control plane and services dropped, by reason."""
        dropped = {f"handshake_{name}": count for name, count in self._trust.dropped.items()}
        return dropped | {f"service_{name}": n for name, n in self._builtins.dropped.items()}

    def waiting(self) -> dict[str, float]:
        """What waits in the control plane, by the name of the queue."""
        return {**self.events.waiting, "handshakes": len(self._trust.trust.rows.pending)}

    @property
    def checks(self) -> dict[str, Callable[[], str]]:
        """What must be so for the node to be on the network."""
        return {
            "registration": lambda: "" if self._state.is_registered else "not registered",
            "registry": lambda: self._presence.problem,
        }

    def trusted(self) -> list[int]:
        """Nodes that this one trusts."""
        return sorted(self._trust.trust.rows.trusted)

    def remember_peers(self) -> None:
        """Stores the peers that have a session."""
        with suppress(InternalError):
            rows = snapshots.take(self._core).peer_list
            self._recent.note(row.node_id for row in rows if row.authenticated)
            self._recent.save()

    def _on_moved(self) -> None:
        """Closes connections to the registry, because those from another address may hang."""
        for close in (self._registry.aclose, self._polls.aclose, self._strangers.aclose):
            self._tasks.start_soon(close)
        self._inbox.nudge()
        self._mappings.nudge()
        self._presence.renew()

    def _on_mapped(self) -> None:
        """The router maps our port, or not any more: another endpoint may be registered."""
        self._own.set_mapped(self._state.port_mapping.external)
        self._presence.renew()

    def _announced(self) -> Announced:
        found = self.public_endpoint.announced
        if found.relay_only:
            return found
        return replace(found, endpoint=self._mappings.endpoint(found.endpoint))

    # What follows the registration (see registrar.Followers)

    def identity_changed(self, identity: Identity) -> None:
        """Others sign with the new key, too."""
        self._trust.signer = self._polls.signer = identity

    def id_known(self, node_id: int, *, is_new: bool) -> None:
        """A registry that gives us another id may name others differently, too."""
        self._trust.trust.own = node_id
        if is_new:
            self._names.forget()
            self.public_endpoint.tell_again()

    def networks_changed(self, networks: frozenset[int]) -> None:
        """Members of our networks are let in."""
        self._trust.trust.networks = networks

    def registered(self) -> None:
        """The registry has an inbox for us, and can be told whom we trust."""
        self._inbox.set_node(self._state.node_id)
        self._tasks.start_soon(self._trust.registered)


def _new_client(config: DaemonConfig, state: NodeState) -> RegistryClient:
    addresses = parse_addresses(config.registry)
    return RegistryClient(addresses, state.identity, tls=config.registry_trust)


def _registry_info(config: DaemonConfig) -> RegistryInfo:
    trust = config.registry_trust
    pins = trust.fingerprints if trust else ()
    return RegistryInfo(config.registry, trust is not None, pins)


async def _first_of(*events: anyio.Event) -> None:
    """Returns when one of the events is set."""
    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(_cancel_when, event, tasks.cancel_scope)


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
