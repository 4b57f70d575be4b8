"""``pilot-daemon``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from pilotstack import _flags, _serving, wellknown
from pilotstack.daemon.config import DaemonConfig
from pilotstack.errors import InvalidArgument
from pilotstack.registry.client import trust_of

if TYPE_CHECKING:
    import anyio

    from pilotstack.registry.client import Trust


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Takes defaults from a JSON file whose keys are flag names."""
    del parameter
    if path is None:
        return
    try:
        values = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path} holds no JSON object")
    defaults = {key.replace("-", "_"): value for key, value in values.items()}
    if isinstance(defaults.get("registry"), str):
        defaults["registry"] = (defaults["registry"],)
    context.default_map = defaults


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=read_config,
    is_eager=True,
    expose_value=False,
    help="JSON file of defaults for these flags.",
)
@_flags.registry_options()
@click.option(
    "--beacon", default=wellknown.default_beacon, help="Beacon, host:port; empty for none."
)
@click.option("--listen", default=":0", show_default=True, help="UDP address of the tunnel.")
@click.option("--socket", type=click.Path(path_type=Path), default=wellknown.default_socket)
@click.option("--identity", type=click.Path(path_type=Path), help="Identity file; made if missing.")
@click.option("--hostname", default="", help="Name to take.")
@click.option("--owner", default="", help="Contact that the registry keeps.")
@click.option(
    "--admin-token",
    default="",
    envvar="PILOT_ADMIN_TOKEN",
    help="The registry's admin token, for managing networks; broadcasts then need it, too.",
)
@click.option("--endpoint", default="", help="Public host:port, instead of asking the beacon.")
@click.option("--public/--private", default=False, help="Whether everybody may reach this node.")
@click.option("--no-echo", is_flag=True, help="Do not echo on port 7.")
@click.option(
    "--congestion",
    type=click.Choice(list(wellknown.CONGESTION)),
    default="cubic",
    show_default=True,
    help="Congestion controller of streams that ask for none.",
)
@click.option(
    "--keepalive", default=30.0, type=click.FloatRange(1, 3600), help="Heartbeat, seconds."
)
@click.option("--log-level", type=click.Choice(_serving.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(_serving.FORMATS), default="text", show_default=True
)
@click.version_option(wellknown.VERSION)
def daemon(
    *,
    registry: tuple[str, ...],
    registry_tls: bool,
    registry_trust: str,
    registry_fingerprint: str,
    beacon: str,
    listen: str,
    socket: Path,
    identity: Path | None,
    hostname: str,
    owner: str,
    admin_token: str,
    endpoint: str,
    public: bool,
    no_echo: bool,
    congestion: str,
    keepalive: float,
    log_level: str,
    log_format: str,
) -> None:
    """Run this agent's network stack."""
    from pilotstack.daemon.supervisor import Daemon

    _serving.configure_logging(log_level, log_format)
    # A stream is a descriptor here.
    _serving.raise_file_limit()
    trust = _trust(registry_tls, registry_trust, registry_fingerprint)
    config = DaemonConfig(
        registry=",".join(registry),
        registry_trust=trust,
        beacon=beacon,
        listen=listen,
        socket=socket,
        identity=identity,
        hostname=hostname,
        owner=owner,
        admin_token=admin_token,
        endpoint=endpoint,
        public=public,
        has_echo=not no_echo,
        congestion=congestion,
        keepalive=keepalive,
    )

    async def main(stopping: anyio.Event) -> None:
        await Daemon(config).run(stopping)

    _serving.run(main)


def _trust(is_tls: bool, mode: str, fingerprints: str) -> Trust | None:
    try:
        return trust_of(is_tls=is_tls, mode=mode, fingerprints=fingerprints)
    except InvalidArgument as error:
        raise click.UsageError(f"{error}: {error.hint}") from error


def run() -> None:
    """Entry point of ``pilot-daemon``."""
    daemon(_flags.normalize(sys.argv[1:]))
