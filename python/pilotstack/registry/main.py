"""``pilot-registry`` and ``pilot-rendezvous``."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands, _events, _flags, _resolving, _serving, wellknown
from pilotstack.beacon import Beacon
from pilotstack.errors import InvalidArgument
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.protocol import tls
from pilotstack.registry.server.certificate import load_or_create, server_context
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.server import RegistryServer, Replication, ServerConfig
from pilotstack.registry.storage.journal import FileStore
from pilotstack.registry.storage.store import MemoryStore, Store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import anyio

log = _events.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that both commands have."""

    registry_addr: str
    store: Path | None
    tls: bool
    tls_cert: Path | None
    tls_key: Path | None
    admin_token: str
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
    replication_token: str
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


async def serve(options: Options, beacon_addr: str | None, stopping: anyio.Event) -> None:
    """Serves until ``stopping`` is set; a beacon too, if it has an address."""
    store: Store = FileStore(options.store) if options.store else MemoryStore()
    host, port = _serving.split_address(options.registry_addr, default_host=_resolving.any_host())
    async with AsyncExitStack() as stack:
        # Before anything is read or written beside it.
        store.lock()
        stack.callback(store.close)
        context, fingerprint = options.context()
        ready: dict[str, object] = {}
        notify = None
        if beacon_addr is not None:
            beacon = stack.enter_context(Beacon(beacon_addr))
            ready["beacon"] = beacon.address
            notify = beacon.notify
        config = ServerConfig(
            policy=options.policy(),
            limits=options.limits(),
            replication=options.replication(),
            tls=context,
            http=_serving.split_address(options.http) if options.http else None,
            notify=notify,
        )
        server = await stack.enter_async_context(RegistryServer(host, port, store, config))
        ready["registry"] = _serving.join_address(*server.address)
        ready["role"] = server.role
        if fingerprint:
            ready["tls_fingerprint"] = fingerprint
        if server.http_address is not None:
            ready["http"] = _serving.join_address(*server.http_address)
        _announce(ready, server)
        await stopping.wait()


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
        help="Where /healthz, /metrics, /api/stats and /api/public-stats are served, host:port; "
        "without it, nowhere.",
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
        help="Secret that creates networks and stands in for signatures.",
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
        help="Secret that a standby shows its primary; without one nobody may follow.",
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
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((*_WHERE, *_TLS, *_POLICY, *_LIMITS, *_REPLICATION, *_LOGS)):
        command = option(command)
    return command


def _run(beacon_addr: str | None, log_level: str, log_format: str, **flags: Any) -> None:
    _serving.configure_logging(log_level, log_format)
    _serving.raise_file_limit()

    async def main(stopping: anyio.Event) -> None:
        await serve(Options(**flags), beacon_addr, stopping)

    # Many small messages on many connections are what it is good at.
    _serving.run(main, wants_uvloop=True)


@_commands.command()
@click.option(
    "--beacon-addr",
    default=f":{wellknown.BEACON_PORT}",
    show_default=True,
    help="Where the beacon listens (UDP).",
)
@_server_options
@click.version_option(wellknown.VERSION)
def rendezvous(beacon_addr: str, **flags: Any) -> None:
    """Run registry and beacon in one process: what a network needs to begin with."""
    _run(beacon_addr, **flags)


@_commands.command()
@_server_options
@click.version_option(wellknown.VERSION)
def registry(**flags: Any) -> None:
    """Run the registry: who has which address, key, name and endpoint."""
    _run(None, **flags)


def run_rendezvous() -> None:
    """Entry point of ``pilot-rendezvous``."""
    _serving.run_command(rendezvous, _flags.normalize(sys.argv[1:]))


def run_registry() -> None:
    """Entry point of ``pilot-registry``."""
    _serving.run_command(registry, _flags.normalize(sys.argv[1:]))
