"""Flags of the daemon, for ``pilot-daemon`` and for ``pilotctl daemon start``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pilotstack import _flags, _logs, wellknown
from pilotstack._flags import REGISTRY_FLAGS, Flag
from pilotstack._legacy import WITHOUT_EFFECT
from pilotstack.ipc.codes import CONGESTION

#: In the order of the help.
FLAGS: Final = (
    *REGISTRY_FLAGS,
    Flag(
        "--beacon",
        multiple=True,
        default=(wellknown.LOCAL_BEACON,),
        show_default=True,
        help="Beacon, host:port; several, by commas or by repeating the flag, in the order of "
        "preference. Those that the registry lists come after them. An empty one takes those "
        "before it back; without any, none is used at all.",
    ),
    Flag(
        "--listen",
        default=":0",
        show_default=True,
        help="UDP address of the tunnel; a port alone means every address, IPv6 and IPv4.",
    ),
    # A flag of every command of pilotctl.
    Flag(
        "--socket",
        is_passed_on=False,
        type=click.Path(path_type=Path),
        help="The drivers' socket; one in the user's runtime directory or ~/.pilot/run unless "
        "given.",
    ),
    # There is one for all daemons in the background.
    Flag(
        "--pid-file",
        is_passed_on=False,
        type=click.Path(path_type=Path),
        help="File for the process's number; locked while the process lives.",
    ),
    Flag(
        "--identity",
        type=click.Path(path_type=Path),
        help="Identity file; made if missing.",
        passed_on_help="Identity file, made if missing; ~/.pilot/identity.json unless given.",
    ),
    Flag("--hostname", default="", help="Name to take."),
    Flag("--owner", default="", help="Contact that the registry keeps."),
    # Everybody can see the flags of a process that stays.
    Flag(
        "--admin-token",
        is_passed_on=False,
        default="",
        help="The registry's admin token, for managing networks; broadcasts then need it, too. "
        "Others can see a flag: use PILOT_ADMIN_TOKEN or --admin-token-file.",
    ),
    Flag(
        "--admin-token-file",
        type=click.Path(path_type=Path),
        help="File that holds that token.",
        passed_on_help="File that holds the registry's admin token.",
    ),
    Flag("--endpoint", default="", help="Public host:port, instead of what beacons see."),
    Flag(
        "--relay-only/--no-relay-only",
        default=False,
        help="Register no endpoint: peers come through a beacon, and the registry tells nobody "
        "where this node is.",
    ),
    Flag(
        "--no-port-mapping",
        is_flag=True,
        help="Do not ask the router to map the tunnel's port (PCP, NAT-PMP, UPnP).",
    ),
    Flag(
        "--ephemeral/--no-ephemeral",
        default=False,
        help="Leave nothing at the registry when the daemon stops: no address, name, trust or "
        "membership. A daemon that is killed is forgotten within a minute. For a new identity.",
    ),
    Flag("--public/--private", default=False, help="Whether everybody may reach this node."),
    Flag(
        "--trust-auto-approve/--no-trust-auto-approve",
        default=False,
        help="Grant every request for trust, except for five minutes after a revocation.",
    ),
    Flag(
        "--networks",
        default="",
        help="Networks to join at the start, ids separated by commas; open ones only.",
    ),
    Flag("--no-echo", is_flag=True, help="Do not echo on port 7."),
    Flag("--nameserver", is_flag=True, help="Serve names on port 53, for every node."),
    Flag(
        "--names",
        default="nameserver",
        show_default=True,
        help="Nameserver that is asked for names which the registry does not know: an address, "
        "node id or hostname. An empty one asks nobody.",
    ),
    Flag("--no-status", is_flag=True, help="Do not tell peers on port 1 what this node offers."),
    Flag("--no-dataexchange", is_flag=True, help="Take no messages and files on port 1001."),
    Flag("--no-eventstream", is_flag=True, help="Be no broker of events on port 1002."),
    Flag(
        "--files",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of what peers send: received and inbox in it. Beside the identity, otherwise "
        "~/.pilot, unless given.",
    ),
    Flag(
        "--files-quota",
        default=64.0,
        show_default=True,
        type=click.FloatRange(0),
        help="GiB that peers may store there in all; each of them half of it.",
    ),
    Flag(
        "--congestion",
        type=click.Choice(list(CONGESTION)),
        default="cubic",
        show_default=True,
        help="Congestion controller of streams that ask for none.",
    ),
    Flag(
        "--qlog",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder for a record of every connection as qlog; costs speed and room.",
    ),
    Flag(
        "--http",
        default="",
        help="Serve /healthz, /readyz and /metrics at HOST:PORT, and on a loopback address the "
        "dashboard; port 0 means any. The address of the dashboard, with its token, is in a file "
        "beside the drivers' socket: pilot.sock.http.",
    ),
    Flag(
        "--audit-log",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File for security events as lines of JSON, with numbers that show gaps.",
    ),
    Flag("--keepalive", default=30.0, type=click.FloatRange(1, 3600), help="Heartbeat, seconds."),
    Flag(
        "--log-level",
        type=click.Choice(_logs.LEVELS),
        default="info",
        show_default=True,
        help="What is worth a line of the log.",
    ),
    Flag(
        "--log-format",
        type=click.Choice(_logs.FORMATS),
        default="text",
        show_default=True,
        help="What a line of the log looks like.",
    ),
    # What an existing program would have heeded: see pilotstack._legacy.
    Flag(WITHOUT_EFFECT, multiple=True, hidden=True, help="Flag to say of that it has no effect."),
)

#: Flags of ``pilot-daemon``.
daemon_options = _flags.all_of(flag.option() for flag in FLAGS)
#: Flags of ``pilotctl daemon start``.
start_options = _flags.all_of(flag.passed_on() for flag in FLAGS if flag.is_passed_on)
