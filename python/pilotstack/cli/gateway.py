"""``pilotctl gateway``: agents as local IP addresses, and a proxy for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack.cli.context import Group, global_options, reported
from pilotstack.cli.outcome import Incomplete
from pilotstack.errors import PilotError
from pilotstack.gateway.config import default_control
from pilotstack.gateway.flags import CONTROL, start_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.gateway.control import Answer, Request
    from pilotstack.gateway.mapping import Row
    from pilotstack.gateway.process import Failed

AGENTS = click.argument("agents", metavar="[AGENT]...", nargs=-1)


@click.group(cls=Group)
def gateway() -> None:
    """Reach agents through local IP addresses, and through a proxy."""


def _flags(settings: Settings, agents: tuple[str, ...], options: dict[str, Any]) -> list[str]:
    from pilotstack.gateway import lifecycle

    if settings.socket is not None:
        options["socket"] = settings.socket
    return lifecycle.flags_of(options, agents)


@gateway.command()
@AGENTS
@CONTROL.option()
@start_options
@global_options
@reported
def run(settings: Settings, /, agents: tuple[str, ...], **options: Any) -> None:
    """Map each AGENT to a local IP, in the foreground, until interrupted."""
    from pilotstack.gateway import lifecycle

    form = "--json" if settings.output.is_json else "--no-json"
    lifecycle.execute(_flags(settings, agents, options), form)


@gateway.command()
@AGENTS
@CONTROL.option()
@start_options
@global_options
@reported
def start(settings: Settings, /, agents: tuple[str, ...], **options: Any) -> None:
    """Start the gateway in the background, map each AGENT, and wait until it serves."""
    from pilotstack.gateway import lifecycle
    from pilotstack.gateway.control import List

    ready = lifecycle.start(_flags(settings, agents, options))
    rows = ready.mappings
    if ready.total > len(rows):
        status = _ask(Path(ready.control), List()).gateway
        assert status is not None
        rows = status.mappings
    data = {
        "pid": ready.pid,
        "subnet": ready.subnet,
        "mappings": [_data(row) for row in rows],
        "proxy": ready.proxy,
        "dns": ready.dns,
        "control": ready.control,
        "log_file": str(lifecycle.log_file()),
    }
    if ready.failed:
        data["failed"] = [
            {"agent": each.agent, "code": each.code, "message": each.message}
            for each in ready.failed
        ]
        if not settings.output.is_json:
            _table(rows, ready.proxy)(settings.output.screen)
        raise Incomplete(_not_mapped(ready.failed), data)
    settings.output.success(data, _table(rows, ready.proxy))


def _not_mapped(failed: list[Failed]) -> PilotError:
    reasons = "; ".join(f"{each.agent}: {each.message}" for each in failed)
    return PilotError(
        f"the gateway runs, but {len(failed)} of the agents are not mapped: {reasons}",
        code="incomplete",
        hint="map them with: pilotctl gateway map AGENT",
    )


@gateway.command()
@CONTROL.option()
@global_options
@reported
def stop(settings: Settings, /, control: Path | None) -> None:
    """Stop the gateway: its connections are reset, its IPs taken back."""
    from pilotstack.gateway.control import Stop

    status = _ask(control, Stop()).gateway
    assert status is not None
    settings.output.success({"pid": status.pid})


@gateway.command("map")
@click.argument("agent")
@click.argument("local_ip", required=False, default="")
@CONTROL.option()
@global_options
@reported
def map_agent(settings: Settings, /, agent: str, local_ip: str, control: Path | None) -> None:
    """Map an AGENT; to LOCAL_IP, if that is given."""
    from pilotstack.gateway.control import Map

    row = _ask(control, Map(agent, local_ip)).row
    assert row is not None
    settings.output.success(_data(row), _table([row]))


@gateway.command()
@click.argument("what", metavar="LOCAL_IP|AGENT")
@CONTROL.option()
@global_options
@reported
def unmap(settings: Settings, /, what: str, control: Path | None) -> None:
    """End a mapping, and the connections to its agent."""
    from pilotstack.gateway.control import Unmap

    row = _ask(control, Unmap(what)).row
    assert row is not None
    settings.output.success(
        {"unmapped": row.local_ip, "pilot_addr": row.pilot_addr},
        lambda screen: screen.print(f"unmapped {row.local_ip}, which was {row.pilot_addr}"),
    )


@gateway.command("list")
@CONTROL.option()
@global_options
@reported
def list_mappings(settings: Settings, /, control: Path | None) -> None:
    """List mappings, and what the gateway does."""
    from pilotstack.gateway.control import List

    status = _ask(control, List()).gateway
    assert status is not None
    data = {
        "mappings": [_data(row) for row in status.mappings],
        "total": len(status.mappings),
        "pid": status.pid,
        "subnet": status.subnet,
        "proxy": status.proxy,
        "connections": status.connections,
        "connections_total": status.total,
        "refused": status.refused,
    }
    settings.output.success(data, _table(status.mappings, status.proxy))


def _ask(control: Path | None, request: Request) -> Answer:
    from pilotstack.gateway.control import ask

    return ask(control or default_control(), request)


def _data(row: Row) -> dict[str, object]:
    data: dict[str, object] = {
        "local_ip": row.local_ip,
        "pilot_addr": row.pilot_addr,
        "ports": {str(port): local for port, local in row.ports.items()},
    }
    data |= {"name": row.name} if row.name else {}
    data |= {"failed": {str(p): why for p, why in row.failed.items()}} if row.failed else {}
    return data


def _table(rows: list[Row], proxy: str = "") -> Callable[[Screen], None]:
    def render(screen: Screen) -> None:
        if rows:
            columns = {"ip": "local ip", "agent": "agent", "name": "name", "ports": "ports"}
            shown = [
                {
                    "ip": row.local_ip,
                    "agent": row.pilot_addr,
                    "name": row.name,
                    "ports": _ports(row),
                }
                for row in rows
            ]
            screen.rows("gateway", columns, shown)
        for row in rows:
            for port, reason in row.failed.items():
                screen.print(f"{row.local_ip} port {port} failed: {reason}")
        if proxy:
            screen.print(f"proxy on {proxy}")

    return render


def _ports(row: Row) -> str:
    return " ".join(
        str(port) if port == local else f"{port}={local}" for port, local in row.ports.items()
    )


COMMANDS = (gateway,)
