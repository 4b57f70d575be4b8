"""``pilot-gateway``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pilotstack import _commands, _flags, _logs, _notify, _serving, _settings, _streams, wellknown
from pilotstack.gateway.config import PORTS, GatewayConfig, parse_ports
from pilotstack.gateway.flags import CONTROL, gateway_options
from pilotstack.gateway.guard import parse_uids

if TYPE_CHECKING:
    import anyio

    from pilotstack.gateway.mapping import Row
    from pilotstack.gateway.process import Failed, Mapped, Ready


@click.group(cls=_commands.Group)
@click.version_option(wellknown.VERSION)
def gateway() -> None:
    """Reach agents through local IP addresses, and through a proxy."""


@gateway.command(context_settings={"auto_envvar_prefix": "PILOT_GATEWAY"})
@_settings.options("pilot-gateway")
@click.argument("agents", metavar="[AGENT]...", nargs=-1)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="PILOT_SOCKET",
    help="The daemon's socket (PILOT_SOCKET).",
)
@CONTROL.option()
@gateway_options
@click.option(
    "--json/--no-json",
    "is_json",
    default=None,
    help="Say as JSON that it serves; the default unless stdout is a terminal.",
)
def run_command(
    agents: tuple[str, ...],
    socket: Path | None,
    control: Path | None,
    subnet: str,
    ports: str,
    unprivileged: bool,
    proxy: str,
    dns: str,
    allow_uid: str,
    limit: int | None,
    idle: float | None,
    state: Path | None,
    http: str,
    log_level: str,
    log_format: str,
    is_json: bool | None,
) -> None:
    """Map each AGENT, an address, node id or name, to a local IP, until stopped.

    Agents that were mapped before are mapped again, with the same IPs. Others can be added while
    it runs: see pilotctl gateway.
    """
    from pilotstack.gateway.process import run

    _serving.configure_logging(log_level, log_format)
    _serving.raise_file_limit()
    config = GatewayConfig(
        agents=agents,
        subnet=subnet,
        ports=parse_ports(ports) if ports else PORTS,
        is_unprivileged=unprivileged,
        proxy=proxy,
        dns=dns,
        http=http,
        uids=parse_uids(allow_uid),
        limit=limit,
        socket=socket,
        control=control.absolute() if control else None,
        state=state.absolute() if state else None,
        idle=idle,
    )
    teller = _Teller(is_json)

    async def main(stopping: anyio.Event) -> None:
        await run(config, stopping, teller.tell)

    _serving.run(main, wants_uvloop=True)


run_command.name = "run"
gateway.commands = {"run": run_command}


class _Teller:
    """Prints events for people until the gateway serves; or only that it does, as JSON."""

    def __init__(self, is_json: bool | None) -> None:
        is_terminal = _streams.is_terminal(sys.stdout)
        self._is_json = not is_terminal if is_json is None else is_json
        self._writer = _logs.LineWriter(sys.stdout)

    def tell(self, event: Mapped | Failed | Ready) -> None:
        """Prints an event. After the last, stdout is closed for whoever waits for that."""
        from pilotstack.gateway.process import Ready

        if not self._is_json:
            for line in _lines(event):
                self._writer.write(f"gateway: {line}\n")
        elif isinstance(event, Ready):
            self._writer.write(msgspec.json.encode(event).decode() + "\n")
        if isinstance(event, Ready):
            self._writer.flush(_PATIENCE)
            self._writer.close()
            _notify.ready()


#: Seconds for stdout to accept what is written.
_PATIENCE = 0.2


def _lines(event: Mapped | Failed | Ready) -> list[str]:
    from pilotstack.gateway.process import Failed, Mapped

    match event:
        case Mapped(row):
            return _of_row(row)
        case Failed():
            return [f"cannot map {event.agent or 'an agent of before'}: {event.message}"]
        case _:
            proxied = [f"SOCKS 5 and HTTP proxy on {event.proxy}"] if event.proxy else []
            named = [f"DNS for *.pilot on {event.dns}"] if event.dns else []
            return [*proxied, *named, f"ready, control socket {event.control}"]


def _of_row(row: Row) -> list[str]:
    lines = [f"mapped {row.local_ip} -> {row.pilot_addr}"]
    for port, local in row.ports.items():
        at = _serving.join_address(row.local_ip, local)
        lines.append(f"proxy listening on {at}" + (f" for port {port}" if port != local else ""))
    lines += [f"port {port} failed: {reason}" for port, reason in row.failed.items()]
    return lines


def run() -> None:
    """Entry point of ``pilot-gateway``."""
    _serving.run_command(gateway, _flags.normalize(sys.argv[1:]))
