"""``pilotctl doctor``: what is wrong with this host, its daemon and its servers."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pilotstack import _commands, _paths, wellknown
from pilotstack.cli.context import asynchronous, global_options, registry_options
from pilotstack.cli.outcome import Incomplete
from pilotstack.cli.reach import resolved_beacons
from pilotstack.cli.session import ControlSession
from pilotstack.cli.text import members_of
from pilotstack.errors import InvalidArgument, PilotError
from pilotstack.ipc.requests import GetInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.diagnosis.doctor import HostFacts, NetworkFacts
    from pilotstack.diagnosis.findings import Report
    from pilotstack.diagnosis.host import Place, Running
    from pilotstack.ipc import answers as a

_COLUMNS: Final = {"severity": "result", "text": "finding", "fix": "what to do"}
#: Seconds that the daemon has to answer.
_PATIENCE: Final = 5.0


@_commands.command()
@click.option(
    "--beacon",
    "beacons",
    multiple=True,
    envvar="PILOT_BEACON",
    help="Beacon, host:port; several, by commas or by repeating the flag. Those of the daemon "
    "unless given, otherwise the one of this host (PILOT_BEACON).",
)
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    envvar="PILOT_IDENTITY",
    help="Identity file; ~/.pilot/identity.json unless given.",
)
@registry_options
@global_options
@asynchronous
async def doctor(settings: Settings, /, beacons: tuple[str, ...], identity: Path | None) -> None:
    """Look for what is wrong with this host, its daemon, and the way to registry and beacons.

    It changes nothing, and the daemon need not run. The exit status is 1 if something does not
    work. Registry and beacons are those of the daemon unless they are given.
    """
    from pilotstack.diagnosis.doctor import examine

    running, info = _daemon(settings)
    here = _host(settings, running, identity or wellknown.home() / "identity.json")
    named = tuple(part.strip() for text in beacons for part in text.split(",") if part.strip())
    if not named:
        named = info.beacons if info else (wellknown.LOCAL_BEACON,)
    found = examine(here, await _network(settings, info, named))
    output = settings.output
    if found.ok:
        output.success(found, lambda screen: _render(screen, found))
        return
    if not output.is_json:
        _render(output.screen, found)
    count = sum(each.severity == "error" for each in found.findings)
    failure = PilotError(
        f"{count} of {len(found.findings)} checks found something that does not work",
        code="unhealthy",
        hint=found.findings[0].fix,
    )
    raise Incomplete(failure, members_of(found))


def _render(screen: Screen, found: Report) -> None:
    screen.rows("doctor", _COLUMNS, found.findings)


def _daemon(settings: Settings) -> tuple[Running, a.Info | None]:
    from pilotstack.daemon import lifecycle
    from pilotstack.diagnosis.host import Running

    socket = settings.socket or wellknown.default_socket()
    pid = lifecycle.running_pid(socket)
    try:
        with ControlSession(socket, patience=_PATIENCE) as session:
            info = session.ask(GetInfo())
    except PilotError as error:
        return Running(pid, problem=error.message), None
    return Running(pid, is_answering=True, version=info.version), info


def _host(settings: Settings, running: Running, identity: Path) -> HostFacts:
    from pilotstack.daemon import lifecycle
    from pilotstack.daemon.pid_file import owner
    from pilotstack.diagnosis import probes
    from pilotstack.diagnosis.doctor import HostFacts

    home, pid_file = wellknown.home(), lifecycle.pid_file()
    socket = settings.socket or wellknown.default_socket()
    has_pid_file = pid_file.exists() and owner(pid_file) is None
    return HostFacts(
        uid=os.geteuid(),
        version=wellknown.VERSION,
        running=running,
        descriptors=probes.descriptor_limit(running.pid),
        buffers=probes.buffers(),
        disks=tuple(dict(map(probes.free_bytes, (home, identity.parent))).items()),
        places=_places(home, socket, identity),
        sockets=tuple(map(probes.socket_at, dict.fromkeys((socket, _common())))),
        identity=identity,
        identity_problem=_problem_of(identity),
        pid_file=pid_file,
        has_pid_file=has_pid_file,
        is_home_lasting=_paths.is_lasting(home),
    )


def _common() -> Path:
    """Where existing programs look, which is a link to the socket itself."""
    common = _paths.COMMON_SOCKET
    with suppress(OSError):
        if common.is_symlink() and common.lstat().st_uid == os.geteuid():
            return common.resolve()
    return common


def _places(home: Path, socket: Path, identity: Path) -> tuple[Place, ...]:
    from pilotstack.diagnosis.host import place_of

    folders = dict.fromkeys((home, identity.parent, socket.parent))
    files = [place_of(identity, is_secret=True)]
    files += [place_of(identity.with_name(name)) for name in ("trust.json", "peers.json")]
    # Everybody may write to /tmp itself, where a socket's owner is checked instead.
    return (*(place_of(path) for path in folders if path != Path("/tmp")), *files)


def _problem_of(identity: Path) -> str:
    from pilotstack.daemon import identity as identities

    try:
        identities.load(identity)
    except FileNotFoundError:
        return ""
    except InvalidArgument as error:
        return error.message
    return ""


async def _network(settings: Settings, info: a.Info | None, named: Sequence[str]) -> NetworkFacts:
    from pilotstack.cli.where import registry_of
    from pilotstack.diagnosis import probes
    from pilotstack.diagnosis.doctor import NetworkFacts
    from pilotstack.netcheck.check import check

    addresses, trust = registry_of(settings, info)
    contacts = [await probes.contact(address, trust) for address in addresses]
    report = None
    with suppress(InvalidArgument):
        if named:
            report = await check(await resolved_beacons(named))
    return NetworkFacts(time.time(), tuple(contacts), tuple(named), report)


COMMANDS = (doctor,)
