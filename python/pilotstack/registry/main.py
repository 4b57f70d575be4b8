"""``pilot-registry`` and ``pilot-rendezvous``."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from pilotstack import _commands, _events, _flags, _resolving, _serving, _settings, wellknown
from pilotstack._legacy import RENDEZVOUS, WITHOUT_EFFECT
from pilotstack.beacon import Beacon
from pilotstack.beacon.keys import KeyCheck
from pilotstack.beacon.mesh import Directory, Mesh, RegistryDirectory
from pilotstack.beacon.options import BeaconOptions, beacon_options
from pilotstack.errors import InvalidArgument
from pilotstack.observe.audit import audited
from pilotstack.registry.client import RegistryClient, error_of
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol import tls
from pilotstack.registry.protocol.requests.base import Refusal, Reply, Request
from pilotstack.registry.protocol.requests.beacons import (
    BeaconList,
    BeaconListReply,
    BeaconRegister,
)
from pilotstack.registry.server.certificate import load_or_create, server_context
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.server import RegistryServer, Replication, ServerConfig
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.store import MemoryStore, Store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client.registry import Collector

log = _events.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that both commands have."""

    registry_addr: str
    store: Path | None
    tls: bool
    tls_cert: Path | None
    tls_key: Path | None
    admin_token: str = field(repr=False)
    stale_threshold: float
    require_signed_registration: bool
    allow_owner_reclaim: bool
    register_rate: float
    lookup_rate: float
    request_rate: float
    max_connections: int
    max_connections_per_source: int
    limit_loopback: bool
    http: str
    standby: str
    replication_token: str = field(repr=False)
    open_replication: bool
    promote: bool
    primary_tls: bool
    primary_trust: str
    primary_fingerprint: str

    def context(self) -> tuple[ssl.SSLContext | None, str]:
        """TLS of the registry's port, and the fingerprint that clients pin.

        Raises:
            InvalidArgument: a file is missing or unusable.
        """
        certificate, key = self.tls_cert, self.tls_key
        if (certificate is None) != (key is None):
            raise InvalidArgument("--tls-cert and --tls-key belong together")
        if certificate is None or key is None:
            if not self.tls:
                return None, ""
            if self.store is None:
                raise InvalidArgument(
                    "a certificate of our own is kept beside the store, and there is none",
                    hint="add --store, or give --tls-cert and --tls-key",
                )
            certificate = self.store.with_name(f"{self.store.name}.cert.pem")
            key = self.store.with_name(f"{self.store.name}.key.pem")
            load_or_create(certificate, key)
        return server_context(certificate, key)

    def replication(self) -> Replication:
        """How this registry and others keep the same state.

        Raises:
            InvalidArgument: the flags make no sense.
        """
        if self.promote and self.standby:
            raise InvalidArgument("--promote and --standby exclude each other")
        trust = tls.trust_of(
            is_tls=self.primary_tls,
            mode=self.primary_trust,
            fingerprints=self.primary_fingerprint,
            prefix="primary",
        )
        return Replication(
            primary=_serving.split_address(self.standby) if self.standby else None,
            trust=trust,
            token=self.replication_token,
            is_open=self.open_replication,
            is_promoted=self.promote,
            term_path=self.store.with_name(f"{self.store.name}.term") if self.store else None,
        )

    def limits(self) -> Limits:
        """What a source may ask."""
        return Limits(
            registrations=self.register_rate,
            requests=self.request_rate,
            lookups=self.lookup_rate,
            connections=self.max_connections,
            connections_per_source=self.max_connections_per_source,
            includes_loopback=self.limit_loopback,
        )

    def policy(self) -> Policy:
        """What the operator decided."""
        return Policy(
            admin_token=self.admin_token,
            stale_after=self.stale_threshold,
            requires_signed_registration=self.require_signed_registration,
            allows_owner_reclaim=self.allow_owner_reclaim,
            salt=os.urandom(32),
        )


@dataclass(frozen=True, slots=True)
class BeaconSide:
    """The beacon of a rendezvous."""

    listen: str
    options: BeaconOptions


class _OwnRegistry:
    """The registry of this process, for the beacon beside it. Requests come from the beacon's
    public address, which a registry believes without an admin token.

    Args:
        server: the registry.
        public_ip: where the beacon is reached.
        admin_token: the operator's secret, if there is one.
    """

    def __init__(self, server: RegistryServer, public_ip: str, admin_token: str) -> None:
        self._service = server.service
        self._source = Source(public_ip, 0)
        self._token = admin_token

    async def exchange(self, beacon_id: int, address: str) -> Mapping[int, str]:
        """See :class:`~pilotstack.beacon.mesh.Directory`."""
        await self._answer(
            BeaconRegister(beacon_id=beacon_id, addr=address, admin_token=self._token)
        )
        reply = await self._answer(BeaconList())
        assert isinstance(reply, BeaconListReply)
        return {row.id: row.addr for row in reply.beacons}

    async def _answer(self, request: Request[Reply]) -> Reply:
        allowance = self._service.throttle.connection(self._source.host, time.monotonic())
        reply = await self._service.answer(request, self._source, allowance)
        if isinstance(reply, Refusal):
            raise error_of(reply.error, reply.code)
        return reply


def _directory(options: Options, server: RegistryServer, public_ip: str) -> Directory:
    """Where the beacon of a rendezvous announces itself: at the registry beside it, or at the
    primary, if that only follows another."""
    replication = options.replication()
    if replication.primary is None:
        return _OwnRegistry(server, public_ip, options.admin_token)
    client = RegistryClient([replication.primary], tls=replication.trust)
    return RegistryDirectory(client, options.admin_token)


def _key_of(server: RegistryServer) -> Callable[[int], Awaitable[bytes | None]]:
    """What the registry of this process knows of a node's key."""

    async def key_of(node: int) -> bytes | None:
        row = server.state.nodes.get(node)
        return row.public_key if row is not None and server.state.is_live(node) else None

    return key_of


async def serve(options: Options, side: BeaconSide | None, stopping: anyio.Event) -> None:
    """Serves until ``stopping`` is set; a beacon too, if there is one."""
    store: Store = FileStore(options.store) if options.store else MemoryStore()
    host, port = _serving.split_address(options.registry_addr, default_host=_resolving.any_host())
    async with AsyncExitStack() as stack:
        # Before anything is read or written beside it.
        store.lock()
        stack.callback(store.close)
        context, fingerprint = options.context()
        ready: dict[str, object] = {}
        beacon = None
        if side is not None:
            settings = await side.options.config()
            beacon = stack.enter_context(Beacon(side.listen, settings))
            ready["beacon"] = beacon.address
        config = ServerConfig(
            policy=options.policy(),
            limits=options.limits(),
            replication=options.replication(),
            tls=context,
            http=_serving.split_address(options.http) if options.http else None,
            notify=beacon.notify if beacon else None,
            components={"beacon": beacon.problem} if beacon else {},
            collectors=_collectors(beacon) if beacon and options.http else (),
        )
        server = await stack.enter_async_context(RegistryServer(host, port, store, config))
        ready["registry"] = _serving.join_address(*server.address)
        ready["role"] = server.role
        if fingerprint:
            ready["tls_fingerprint"] = fingerprint
        if server.http_address is not None:
            ready["http"] = _serving.join_address(*server.http_address)
        _announce(ready, server)
        async with anyio.create_task_group() as tasks:
            if beacon is not None:
                keys = KeyCheck(beacon, _key_of(server))
                tasks.start_soon(_serving.keep_running, "keys", keys.run)
            if beacon is not None and side is not None and side.options.beacon_id:
                mesh = Mesh(
                    beacon,
                    _directory(options, server, str(settings.public_ips[0])),
                    beacon_id=side.options.beacon_id,
                    address=side.options.address,
                )
                tasks.start_soon(_serving.keep_running, "mesh", mesh.run)
            await stopping.wait()
            tasks.cancel_scope.cancel()


def _collectors(beacon: Beacon) -> tuple[Collector, ...]:
    from pilotstack.beacon.metrics import BeaconMetrics

    return (BeaconMetrics(beacon),)


def _announce(ready: dict[str, object], server: RegistryServer) -> None:
    log.info(
        "serving",
        role=ready["role"],
        term=server.term.number,
        nodes=server.state.live_nodes,
        tls_fingerprint=ready.get("tls_fingerprint"),
    )
    if server.publisher.is_enabled and "tls_fingerprint" not in ready:
        log.warning("replication_in_clear", hint="add --tls, or keep the port in a private network")
    _serving.announce(**ready)


_WHERE = (
    click.option(
        "--registry-addr",
        default=f":{wellknown.REGISTRY_PORT}",
        show_default=True,
        help="Where the registry listens (TCP).",
    ),
    click.option(
        "--store",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File in which the registry survives a restart; without it, it does not.",
    ),
    click.option(
        "--http",
        default="",
        help="Where the dashboard, /healthz, /readyz, /metrics, /api/stats and /api/public-stats "
        "are served, host:port; without it, nowhere.",
    ),
    click.option(
        "--audit-log",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File for security events as lines of JSON, with numbers that show gaps.",
    ),
)
_TLS = (
    click.option(
        "--tls",
        is_flag=True,
        help="Talk TLS; the certificate is made at the first start and kept beside the store.",
    ),
    click.option(
        "--tls-cert",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file of a certificate of yours and its chain.",
    ),
    click.option(
        "--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="PEM file of its key."
    ),
)
_POLICY = (
    click.option(
        "--admin-token",
        default="",
        envvar="PILOT_ADMIN_TOKEN",
        show_envvar=True,
        help="Secret that creates networks and stands in for signatures. Others can see a flag: "
        "use the variable or --admin-token-file.",
    ),
    click.option(
        "--admin-token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File that holds that secret.",
    ),
    click.option(
        "--stale-threshold",
        type=click.FloatRange(90, 86_400 * 365),
        default=600.0,
        show_default=True,
        help="Seconds of silence after which a node counts as offline.",
    ),
    click.option(
        "--require-signed-registration",
        is_flag=True,
        help="Refuse daemons that do not sign when they register, as first-generation ones.",
    ),
    click.option(
        "--allow-owner-reclaim",
        is_flag=True,
        help="Give the id of a deregistered node to a new key with the same owner.",
    ),
)
_LIMITS = (
    click.option(
        "--register-rate",
        type=click.FloatRange(0),
        default=10.0,
        show_default=True,
        help="New keys per minute from one IPv4 address or IPv6 /64; 0 is no limit.",
    ),
    click.option(
        "--lookup-rate",
        type=click.FloatRange(0),
        default=100.0,
        show_default=True,
        help="Lookups per second from one source; 0 is no limit.",
    ),
    click.option(
        "--request-rate",
        type=click.FloatRange(0),
        default=500.0,
        show_default=True,
        help="Requests per second on one connection; 0 is no limit.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(0),
        default=20_000,
        show_default=True,
        help="Connections at once; 0 is no limit.",
    ),
    click.option(
        "--max-connections-per-source",
        type=click.IntRange(0),
        default=2048,
        show_default=True,
        help="Connections at once from one source; 0 is no limit.",
    ),
    click.option(
        "--limit-loopback/--no-limit-loopback",
        default=False,
        show_default=True,
        help="Whether the limits of a source are for this host, too.",
    ),
)
_REPLICATION = (
    click.option(
        "--standby",
        metavar="PRIMARY",
        default="",
        help="Follow this registry, host:port, and answer reads only.",
    ),
    click.option(
        "--replication-token",
        "--repl-token",
        default="",
        envvar="PILOT_REPLICATION_TOKEN",
        show_envvar=True,
        help="Secret that a standby shows its primary; without one nobody may follow. Others can "
        "see a flag: use the variable or --replication-token-file.",
    ),
    click.option(
        "--replication-token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File that holds that secret.",
    ),
    click.option(
        "--open-replication",
        is_flag=True,
        help="Let standbys follow without a token, as first-generation ones have none.",
    ),
    click.option(
        "--promote",
        is_flag=True,
        help="Become the primary in a new term, although another registry replaced this one.",
    ),
    click.option("--primary-tls", is_flag=True, help="Talk TLS to the primary."),
    click.option(
        "--primary-trust",
        type=click.Choice(["pinned", "system"]),
        default="pinned",
        show_default=True,
        help="How its certificate is recognized.",
    ),
    click.option(
        "--primary-fingerprint",
        default="",
        help="SHA-256 of its certificate, as it prints it at its start.",
    ),
)
_LOGS = (
    click.option(
        "--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True
    ),
    click.option(
        "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
    ),
    click.option(WITHOUT_EFFECT, multiple=True, hidden=True),
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((*_WHERE, *_TLS, *_POLICY, *_LIMITS, *_REPLICATION, *_LOGS)):
        command = option(command)
    return command


def _run(
    side: BeaconSide | None,
    log_level: str,
    log_format: str,
    without_effect: tuple[str, ...],
    **flags: Any,
) -> None:
    _serving.configure_logging(log_level, log_format)
    for name in ("admin_token", "replication_token"):
        flags[name] = _settings.secret(flags[name], flags.pop(f"{name}_file"))
    for name in dict.fromkeys(without_effect):
        log.warning("flag_without_effect", flag=f"--{name}", why=RENDEZVOUS.why(name) or "unknown")
    _serving.raise_file_limit()
    audit_log = flags.pop("audit_log")
    program = "pilot-registry" if side is None else "pilot-rendezvous"

    async def main(stopping: anyio.Event) -> None:
        with audited(audit_log, program):
            await serve(Options(**flags), side, stopping)

    # Many small messages on many connections are what it is good at.
    _serving.run(main, wants_uvloop=True)


@_commands.command(context_settings={"auto_envvar_prefix": "PILOT_RENDEZVOUS"})
@_settings.options("pilot-rendezvous")
@click.option(
    "--beacon-addr",
    default=f":{wellknown.BEACON_PORT}",
    show_default=True,
    help="Where the beacon listens (UDP).",
)
@beacon_options(id_flag="--beacon-id", addr_flag="--beacon-public-addr")
@_server_options
@click.version_option(wellknown.VERSION)
def rendezvous(
    beacon_addr: str, beacon_id: int, beacon_public_addr: str, proof_ports: str, **flags: Any
) -> None:
    """Run registry and beacon in one process: what a network needs to begin with."""
    options = BeaconOptions(
        beacon_id=beacon_id,
        address=beacon_public_addr,
        proof_ports=proof_ports,
        limits_loopback=flags["limit_loopback"],
    )
    _run(BeaconSide(beacon_addr, options), **flags)


@_commands.command(context_settings={"auto_envvar_prefix": "PILOT_RENDEZVOUS"})
@_settings.options("pilot-registry")
@_server_options
@click.version_option(wellknown.VERSION)
def registry(**flags: Any) -> None:
    """Run the registry: who has which address, key, name and endpoint."""
    _run(None, **flags)


def run_rendezvous() -> None:
    """Entry point of ``pilot-rendezvous``."""
    _serving.run_command(rendezvous, RENDEZVOUS.translate(_flags.normalize(sys.argv[1:])))


def run_registry() -> None:
    """Entry point of ``pilot-registry``."""
    _serving.run_command(registry, RENDEZVOUS.translate(_flags.normalize(sys.argv[1:])))
