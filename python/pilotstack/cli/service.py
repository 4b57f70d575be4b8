"""``pilotctl daemon``: the daemon in the background."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from pilotstack.cli.context import Group, global_options, reported
from pilotstack.cli.session import ControlSession
from pilotstack.daemon import lifecycle
from pilotstack.daemon.flags import start_options
from pilotstack.errors import PilotError
from pilotstack.ipc.requests import GetInfo

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.answers import Info


#: Seconds that the daemon has to answer ``status``.
_PATIENCE = 5.0


@click.group(cls=Group)
def daemon() -> None:
    """Start, stop and look at the daemon."""


@daemon.command()
@start_options
@click.option("--foreground", is_flag=True, help="Stay in the foreground.")
@global_options
@reported
def start(settings: Settings, /, foreground: bool, **options: lifecycle.Value) -> None:
    """Start the daemon and wait until it serves.

    What is not given here comes from the environment (PILOT_HOSTNAME for --hostname, and so on),
    then from the file of settings.
    """
    if settings.socket is not None:
        options["socket"] = str(settings.socket)
    if settings.config is not None:
        options["config"] = str(settings.config.absolute())
    flags = lifecycle.flags_of(options)
    if foreground:
        lifecycle.execute(flags)
    with settings.output.waiting("waiting until the daemon serves"):
        started = lifecycle.start(flags)
    ready = started.ready
    data = {
        "pid": started.pid,
        "node_id": ready.node_id,
        "address": ready.address,
        "hostname": ready.hostname,
        "socket": ready.socket,
        "log_file": str(started.log_file),
    }
    warnings = lifecycle.warnings_of(ready)
    for warning in () if settings.output.is_json else warnings:
        sys.stderr.write(f"warning: {warning}\n")
    settings.output.success(data | ({"warnings": warnings} if warnings else {}))


@daemon.command()
@global_options
@reported
def stop(settings: Settings) -> None:
    """Stop the daemon: its streams end, and its registration."""
    with settings.output.waiting("waiting until the daemon ends"):
        pid, is_forced = lifecycle.stop(settings.socket_path)
    settings.output.success({"pid": pid} | ({"forced": True} if is_forced else {}))


@daemon.command()
@click.option("--check", is_flag=True, help="Say nothing; exit with 0 only if it answers.")
@global_options
@reported
def status(settings: Settings, /, check: bool) -> None:
    """Show whether the daemon runs and answers."""
    socket = settings.socket_path
    info = _info(socket)
    if check:
        raise Exit(0 if info else 1)
    pid = lifecycle.running_pid(socket)
    data: dict[str, object] = {
        "running": pid is not None or info is not None,
        "pid": pid,
        "pid_file": str(lifecycle.pid_file()),
        "socket": str(socket),
        "responsive": info is not None,
    }
    if info is not None:
        data |= {
            "node_id": info.node_id,
            "address": str(info.address),
            "hostname": info.hostname,
            "uptime_secs": info.uptime_secs,
            "peers": info.peers,
            "connections": info.connections,
        }
    settings.output.success(data)


def _info(socket: Path) -> Info | None:
    try:
        with ControlSession(socket, patience=_PATIENCE) as session:
            return session.ask(GetInfo())
    except (PilotError, OSError):
        return None


COMMANDS = (daemon,)
