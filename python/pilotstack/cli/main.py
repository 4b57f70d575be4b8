"""``pilotctl``."""

from __future__ import annotations

import sys

import rich_click as click

from pilotstack import _flags, wellknown
from pilotstack.cli import agent, demo, identity, network, service, traffic, trust
from pilotstack.cli.context import global_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wellknown.VERSION)
@global_options
def pilotctl() -> None:
    """Use and inspect the overlay network for agents."""


for _group in (agent, identity, network, trust, traffic, service, demo):
    for _command in _group.COMMANDS:
        pilotctl.add_command(_command)


def run() -> None:
    """Entry point of ``pilotctl``."""
    pilotctl(_flags.normalize(sys.argv[1:]))
