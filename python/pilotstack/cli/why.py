"""``pilotctl why``: the cause of a peer that is slow or unreachable."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import click

from pilotstack import _commands, wellknown
from pilotstack.cli.context import asynchronous, find, global_options, registry_options
from pilotstack.cli.durations import Duration
from pilotstack.cli.where import registry_of
from pilotstack.errors import ConnectionRefused, NotFound, PilotError
from pilotstack.ipc import requests as r
from pilotstack.registry.client import RegistryClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver
    from pilotstack.diagnosis.why import Facts, Stream, Verdict
    from pilotstack.ipc.answers import ConnectionInfo, Info
    from pilotstack.types import Address

#: Looks at the streams in the time of observation.
_SAMPLES: Final = 20
#: Open streams, on which something can wait.
_OPEN: Final = {"ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"}


@_commands.command()
@click.argument("target")
@click.option("--port", type=click.IntRange(1, 65_535), help="Also try a stream to this port.")
@click.option(
    "--observe",
    type=Duration(),
    default=1.0,
    show_default="1s",
    help="How long to look at streams that are open.",
)
@click.option(
    "--timeout", type=Duration(), default=10.0, show_default="10s", help="For tunnel and stream."
)
@registry_options
@global_options
@asynchronous
async def why(
    settings: Settings, /, target: str, port: int | None, observe: float, timeout: float
) -> None:
    """Explain in a paragraph why a node is slow or unreachable.

    It asks the registry, sets up a tunnel if there is none, and looks at the streams to the node
    for a while. Run it while the node is slow. The exit status is 6 if the node cannot be used.
    """
    from pilotstack.diagnosis.why import explain

    async with settings.driver() as driver:
        facts = await _facts(driver, settings, target, (port, observe, timeout))
    verdict = explain(facts)
    if verdict.is_unreachable:
        _fail(settings, verdict)
    settings.output.success(verdict, lambda screen: _render(screen, verdict))


def _fail(settings: Settings, verdict: Verdict) -> None:
    from pilotstack.cli.outcome import Incomplete
    from pilotstack.cli.text import members_of
    from pilotstack.errors import ConnectionFailed

    text = verdict.text.rstrip(".")
    failure = ConnectionFailed(text, hint=verdict.fix)
    raise Incomplete(failure, members_of(verdict))


def _render(screen: Screen, verdict: Verdict) -> None:
    screen.print(f"{verdict.code}: {verdict.text}")
    if verdict.fix:
        screen.print(f"what to do: {verdict.fix}")


async def _facts(
    driver: Driver, settings: Settings, target: str, how: tuple[int | None, float, float]
) -> Facts:
    from pilotstack.diagnosis.why import Facts

    port, observe, timeout = how
    info = await driver.info()
    facts = Facts(target, port=port or wellknown.ECHO_PORT)
    try:
        address = await find(driver, target)
    except NotFound:
        return replace(facts, is_unknown=True)
    facts = replace(facts, address=address)
    if address.node == info.node_id:
        return replace(facts, is_self=True)
    facts = await _with_record(driver, settings, info, facts)
    # Streams first: what follows would be one of them.
    streams, cpu = await _observed(
        driver, settings.socket or wellknown.default_socket(), address, observe
    )
    facts = replace(facts, streams=streams, cpu=cpu)
    if not streams:
        facts = await _with_tunnel(driver, facts, timeout)
    if not facts.tunnel_error and (port or not streams):
        facts = await _with_dial(driver, facts, timeout, is_asked=port is not None)
    with suppress(PilotError):
        rows = (await driver.ask(r.ListPeers(address.node))).peers
        facts = replace(facts, peer=next(iter(rows), None))
    return facts


async def _with_record(driver: Driver, settings: Settings, info: Info, facts: Facts) -> Facts:
    """Adds what registry and trust say."""
    assert facts.address is not None, "found before"
    node = facts.address.node
    trusted = (await driver.ask(r.ListTrusted())).trusted or ()
    pending = (await driver.ask(r.ListPending())).pending or ()
    facts = replace(
        facts,
        is_trusted=any(row.node_id == node for row in trusted),
        is_waiting=any(row.node_id == node for row in pending),
    )
    addresses, trust = registry_of(settings, info)
    client = RegistryClient(addresses, tls=trust)
    try:
        record = await client.profile(node)
    except NotFound:
        return replace(facts, is_unknown=True)
    except PilotError:
        return facts
    finally:
        await client.aclose()
    ours = {row.network_id for row in info.networks or ()}
    return replace(
        facts,
        is_public=record.public,
        silent_for=max(0.0, time.time() - record.last_seen) if record.last_seen else None,
        shares_network=bool(ours & record.networks - {0}),
    )


async def _with_tunnel(driver: Driver, facts: Facts, timeout: float) -> Facts:
    assert facts.address is not None, "found before"
    try:
        with anyio.fail_after(timeout):
            await driver.ask(r.Trace(facts.address.node))
    except NotFound:
        return replace(facts, is_unknown=True, tunnel_error="not_found")
    except (PilotError, TimeoutError) as error:
        return replace(facts, tunnel_error=getattr(error, "code", "timeout"))
    return facts


async def _with_dial(driver: Driver, facts: Facts, timeout: float, *, is_asked: bool) -> Facts:
    """Tries a stream. Without a port that was asked for, a refusal shows that the node lives."""
    assert facts.address is not None, "found before"
    try:
        with anyio.fail_after(timeout):
            async with await driver.dial((facts.address, facts.port)):
                return facts
    except ConnectionRefused:
        return replace(facts, dial_error="connection_refused" if is_asked else "")
    except (PilotError, TimeoutError, anyio.BrokenResourceError) as error:
        return replace(facts, dial_error=getattr(error, "code", "timeout"))


async def _observed(
    driver: Driver, socket: Path, address: Address, seconds: float
) -> tuple[tuple[Stream, ...], float | None]:
    """Open streams to a node over some time, and the cores that the daemon kept busy meanwhile."""
    from pilotstack.diagnosis import probes
    from pilotstack.diagnosis.why import stream_of

    if not _rows(await driver.info(), address):
        return (), None
    pid = probes.server_pid(socket)
    rows: dict[int, list[ConnectionInfo]] = {}
    busy, begun = probes.cpu_seconds(pid), time.perf_counter()
    for number in range(_SAMPLES):
        for row in _rows(await driver.info(), address):
            rows.setdefault(row.id, []).append(row)
        if number < _SAMPLES - 1:
            await anyio.sleep(seconds / (_SAMPLES - 1))
    length, after = time.perf_counter() - begun, probes.cpu_seconds(pid)
    cpu = None if busy is None or after is None else (after - busy) / length
    return tuple(stream_of(samples, length) for samples in rows.values()), cpu


def _rows(info: Info, address: Address) -> Sequence[ConnectionInfo]:
    return [
        row for row in info.conn_list if row.remote_addr.node == address.node and row.state in _OPEN
    ]


COMMANDS = (why,)
