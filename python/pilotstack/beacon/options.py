"""The flags of a beacon, which ``pilot-beacon`` and ``pilot-rendezvous`` have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from pilotstack import _serving
from pilotstack.beacon import BeaconConfig, parse_ports, public_ips
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

#: Most numbers that a beacon may have.
_MAX_ID: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class BeaconOptions:
    """How a beacon is reached, and where it announces itself."""

    #: Its number; 0 if it announces itself nowhere.
    beacon_id: int
    #: Its public ``host:port``.
    address: str
    proof_ports: str
    limits_loopback: bool

    async def config(self) -> BeaconConfig:
        """The settings of the beacon.

        Raises:
            InvalidArgument: the flags make no sense.
            OSError: the public host cannot be looked up.
        """
        if self.beacon_id and not self.address:
            raise InvalidArgument(
                "a beacon with a number needs an address that others reach",
                hint="add the public host:port of its UDP port",
            )
        return BeaconConfig(
            beacon_id=self.beacon_id,
            limits_loopback=self.limits_loopback,
            proof_ports=parse_ports(self.proof_ports),
            public_ips=await public_ips(self.address) if self.address else (),
        )


def beacon_options(*, id_flag: str, addr_flag: str) -> Callable[..., Any]:
    """Adds the flags to a command.

    Args:
        id_flag: name of the flag of its number.
        addr_flag: name of the flag of its public address.
    """
    options = (
        click.option(
            id_flag,
            "beacon_id",
            type=click.IntRange(0, _MAX_ID),
            default=0,
            show_default=True,
            help="Number of the beacon, unique at its registry; with 0 it announces itself nowhere "
            "and knows no other beacons.",
        ),
        click.option(
            addr_flag,
            "beacon_public_addr",
            default="",
            metavar="HOST:PORT",
            callback=_check_address,
            help="Where nodes and other beacons reach the beacon.",
        ),
        click.option(
            "--proof-ports",
            default="",
            metavar="FIRST-LAST",
            help="UDP ports at which nodes of other implementations prove their address; open them "
            "in the firewall, too. Without it, any 16 ports.",
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _check_address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    del context, parameter
    if value:
        _serving.split_address(value)
    return value
