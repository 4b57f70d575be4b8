"""``pilot-beacon``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from pilotstack import _commands, _flags, _serving, _settings, wellknown
from pilotstack.beacon import Beacon
from pilotstack.beacon.keys import KeyCheck, registered_key
from pilotstack.beacon.mesh import Mesh, RegistryDirectory
from pilotstack.beacon.options import BeaconOptions, beacon_options
from pilotstack.errors import InvalidArgument
from pilotstack.registry.client import RegistryClient, parse_addresses, trust_of

if TYPE_CHECKING:
    from pilotstack.http.server import HttpServer
    from pilotstack.registry.protocol.tls import TlsTrust


@dataclass(frozen=True, slots=True)
class Options:
    """The flags of ``pilot-beacon``."""

    listen: str
    beacon: BeaconOptions
    registry: str
    trust: TlsTrust | None
    admin_token: str = field(repr=False)
    http: str


def _http_server(
    address: str, beacon: Beacon, options: BeaconOptions, mesh: Mesh | None
) -> HttpServer:
    """What a beacon shows over HTTP. Without its registry it works, and tells so."""
    from pilotstack.beacon.metrics import BeaconMetrics
    from pilotstack.observe import pages
    from pilotstack.observe.health import Health

    def members() -> dict[str, object]:
        told = {} if mesh is None else {"registry": mesh.problem or "ok"}
        return {"beacon_id": options.beacon_id, **told}

    known = {} if mesh is None else {"registry": lambda: mesh.problem}
    health = Health({"beacon": beacon.problem}, known, members)
    return pages.server(address, health, "beacon", BeaconMetrics(beacon))


async def serve(options: Options, stopping: anyio.Event) -> None:
    """Serves until ``stopping`` is set."""
    config = await options.beacon.config()
    if options.beacon.beacon_id and not options.registry:
        raise InvalidArgument("a beacon with a number needs a registry", hint="add --registry")
    ready: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        beacon = stack.enter_context(Beacon(options.listen, config))
        ready["beacon"] = beacon.address
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        mesh = None
        if options.registry:
            client = RegistryClient(parse_addresses(options.registry), tls=options.trust)
            stack.push_async_callback(client.aclose)
            keys = KeyCheck(beacon, registered_key(client))
            tasks.start_soon(_serving.keep_running, "keys", keys.run)
        if options.beacon.beacon_id:
            directory = RegistryDirectory(client, options.admin_token)
            mesh = Mesh(
                beacon,
                directory,
                beacon_id=options.beacon.beacon_id,
                address=options.beacon.address,
            )
            tasks.start_soon(_serving.keep_running, "mesh", mesh.run)
        if options.http:
            http = _http_server(options.http, beacon, options.beacon, mesh)
            await stack.enter_async_context(http)
            tasks.start_soon(_serving.keep_running, "http", http.serve)
            ready["http"] = _serving.join_address(*http.address)
        _serving.announce(**ready)
        await stopping.wait()


@_commands.command(context_settings={"auto_envvar_prefix": "PILOT_BEACON"})
@_settings.options("pilot-beacon")
@click.option(
    "--listen", default=f":{wellknown.BEACON_PORT}", show_default=True, help="UDP address."
)
@beacon_options(id_flag="--id", addr_flag="--addr")
@click.option(
    "--limit-loopback/--no-limit-loopback",
    default=False,
    show_default=True,
    help="Whether this host is one source like others, and has to prove its addresses, too.",
)
@click.option(
    "--registry",
    default="",
    metavar="HOST:PORT,…",
    help="Registry that knows the keys of nodes, and at which a beacon with a number announces "
    "itself and finds the others; several that keep the same state, the preferred one first.",
)
@click.option("--registry-tls", is_flag=True, help="Talk TLS to the registry.")
@click.option(
    "--registry-trust",
    type=click.Choice(["pinned", "system"]),
    default="pinned",
    show_default=True,
    help="How its certificate is recognized.",
)
@click.option(
    "--registry-fingerprint",
    default="",
    help="SHA-256 of its certificate, as it prints it at its start.",
)
@click.option(
    "--admin-token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the registry's admin token, which it demands if it has one.",
)
@click.option(
    "--http",
    default="",
    help="Where /healthz, /readyz and /metrics are served, host:port; without it, nowhere.",
)
@click.option("--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
)
@click.version_option(wellknown.VERSION)
def beacon(
    *,
    listen: str,
    beacon_id: int,
    beacon_public_addr: str,
    proof_ports: str,
    limit_loopback: bool,
    registry: str,
    registry_tls: bool,
    registry_trust: str,
    registry_fingerprint: str,
    admin_token_file: Path | None,
    http: str,
    log_level: str,
    log_format: str,
) -> None:
    """Run a beacon: it tells nodes where their datagrams come from, and relays between those that
    cannot reach each other."""
    _serving.configure_logging(log_level, log_format)
    options = Options(
        listen=listen,
        beacon=BeaconOptions(
            beacon_id=beacon_id,
            address=beacon_public_addr,
            proof_ports=proof_ports,
            limits_loopback=limit_loopback,
        ),
        registry=registry,
        trust=trust_of(
            is_tls=registry_tls,
            mode=registry_trust,
            fingerprints=registry_fingerprint,
            prefix="registry",
        ),
        admin_token=_settings.secret("", admin_token_file),
        http=http,
    )

    async def main(stopping: anyio.Event) -> None:
        await serve(options, stopping)

    _serving.run(main)


def run() -> None:
    """Entry point of ``pilot-beacon``."""
    _serving.run_command(beacon, _flags.normalize(sys.argv[1:]))
