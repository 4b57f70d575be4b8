"""``pilot-daemon``."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands, _events, _flags, _serving, _settings, wellknown
from pilotstack._legacy import DAEMON
from pilotstack.daemon.config import DaemonConfig
from pilotstack.daemon.flags import daemon_options
from pilotstack.errors import InvalidArgument
from pilotstack.registry.client import trust_of
from pilotstack.registry.protocol.names import check_hostname

if TYPE_CHECKING:
    import anyio

log = _events.get_logger(__name__)


@_commands.command(context_settings={"auto_envvar_prefix": "PILOT"})
@_settings.options("pilot-daemon")
@daemon_options
@click.version_option(wellknown.VERSION)
def daemon(
    *,
    registry: tuple[str, ...],
    registry_tls: bool,
    registry_trust: str,
    registry_fingerprint: str,
    beacon: tuple[str, ...],
    pid_file: Path | None,
    admin_token: str,
    admin_token_file: Path | None,
    hostname: str,
    no_echo: bool,
    no_status: bool,
    nameserver: bool,
    no_dataexchange: bool,
    no_eventstream: bool,
    no_port_mapping: bool,
    audit_log: Path | None,
    log_level: str,
    log_format: str,
    without_effect: tuple[str, ...],
    **settings: Any,
) -> None:
    """Run this agent's network stack."""
    from pilotstack.daemon.pid_file import PidFile
    from pilotstack.daemon.supervisor import Daemon
    from pilotstack.observe.audit import audited

    _serving.configure_logging(log_level, log_format)
    # Flags come before files, but what has no effect is said of both.
    filed = (click.get_current_context().default_map or {}).get("without_effect", ())
    for name in dict.fromkeys((*without_effect, *filed)):
        log.warning("flag_without_effect", flag=f"--{name}", why=DAEMON.why(name) or "unknown")
    # Each stream of a driver is a descriptor.
    _serving.raise_file_limit()
    if problem := hostname and check_hostname(hostname):
        raise InvalidArgument(problem, hint="choose another name with --hostname")
    config = DaemonConfig(
        registry=",".join(registry),
        registry_trust=trust_of(
            is_tls=registry_tls, mode=registry_trust, fingerprints=registry_fingerprint
        ),
        beacon=",".join(_after_last_empty(beacon)),
        hostname=hostname,
        admin_token=_settings.secret(admin_token, admin_token_file),
        has_echo=not no_echo,
        has_status=not no_status,
        is_nameserver=nameserver,
        has_data_exchange=not no_dataexchange,
        has_event_stream=not no_eventstream,
        may_map_port=not no_port_mapping,
        **settings,
    )

    _take_name()

    async def main(stopping: anyio.Event) -> None:
        with PidFile(pid_file) if pid_file else nullcontext(), audited(audit_log, "pilot-daemon"):
            await Daemon(config).run(stopping)

    _serving.run(main)


def _take_name() -> None:
    """Names the process as existing programs expect it of the owner of the pid file."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text("pilot-daemon")


def _after_last_empty(beacons: tuple[str, ...]) -> tuple[str, ...]:
    """An empty flag takes those before it back."""
    listed = list(beacons)
    while "" in listed:
        del listed[: listed.index("") + 1]
    return tuple(listed)


def run() -> None:
    """Entry point of ``pilot-daemon``."""
    _serving.run_command(daemon, DAEMON.translate(_flags.normalize(sys.argv[1:])))
