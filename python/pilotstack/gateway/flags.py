"""Flags of the gateway, for ``pilot-gateway`` and for ``pilotctl gateway run`` and ``start``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pilotstack import _flags, _logs
from pilotstack._flags import Flag
from pilotstack.gateway.config import PORT_OFFSET, PORTS, UNPRIVILEGED_SUBNET
from pilotstack.gateway.mapping import SUBNET

#: In the order of the help.
FLAGS: Final = (
    Flag(
        "--subnet",
        default="",
        help=f"Local IPs are taken from here; {SUBNET} unless given.",
    ),
    Flag(
        "--ports",
        default="",
        help="Ports of agents that local IPs have, separated by commas; "
        f"{','.join(map(str, PORTS))} unless given.",
    ),
    Flag(
        "--unprivileged",
        is_flag=True,
        help=f"Need no root: local IPs are from {UNPRIVILEGED_SUBNET}, and ports below 1024 are "
        f"{PORT_OFFSET} higher.",
    ),
    Flag(
        "--proxy",
        default="",
        help="Serve SOCKS 5 and HTTP as a proxy at HOST:PORT; port 0 means any.",
    ),
    Flag(
        "--dns",
        default="",
        help="Answer DNS for NAME.pilot at HOST:PORT, over UDP and TCP; port 0 means any. An agent "
        "that is asked for is mapped. Needs dnspython.",
    ),
    Flag(
        "--allow-uid",
        default="",
        help="Users of this host who may connect, by number, separated by commas; everybody "
        "unless given.",
    ),
    Flag(
        "--limit",
        type=click.IntRange(1),
        help="Connections at once; what fits into open files unless given. A quarter of them may "
        "be with one agent.",
    ),
    Flag(
        "--idle",
        type=click.FloatRange(min=0.01),
        help="Seconds without a byte after which a connection is reset; 7440 unless given.",
    ),
    Flag(
        "--state",
        type=click.Path(path_type=Path),
        help="File that keeps mappings; ~/.pilot/gateway.json unless given.",
    ),
    Flag(
        "--http",
        default="",
        help="Serve /healthz, /readyz and /metrics at HOST:PORT; port 0 means any.",
    ),
    Flag(
        "--log-level",
        type=click.Choice(_logs.LEVELS),
        default="info",
        show_default=True,
        help="How much goes to stderr.",
    ),
    Flag(
        "--log-format",
        type=click.Choice(_logs.FORMATS),
        default="text",
        show_default=True,
        help="As text, or as JSON.",
    ),
)

#: Of every command that talks to the running gateway.
CONTROL: Final = Flag(
    "--control",
    type=click.Path(path_type=Path),
    help="The gateway's control socket; ~/.pilot/gateway.sock unless given.",
)

gateway_options = _flags.all_of(flag.option() for flag in FLAGS)
start_options = _flags.all_of(flag.passed_on() for flag in FLAGS)
