"""Requests of beacons, and for them."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import Count, Reply, Request


class BeaconRegisterReply(Reply, frozen=True, tag="beacon_register_ok"):
    """Done."""

    beacon_id: Count


class BeaconRegister(
    Request[BeaconRegisterReply], frozen=True, kw_only=True, tag="beacon_register"
):
    """A beacon says where it is; it repeats that."""

    errors: ClassVar[frozenset[Code]] = frozenset({Code.ADMIN_TOKEN, Code.ALREADY, Code.INVALID})

    beacon_id: Count = 0
    #: ``host:port``.
    addr: str = ""


class BeaconRow(msgspec.Struct, frozen=True):
    """A beacon."""

    id: Count
    addr: str


class BeaconListReply(Reply, frozen=True, tag="beacon_list_ok"):
    """Beacons that were heard of lately."""

    beacons: tuple[BeaconRow, ...]
    #: The registry's wall clock, in Unix seconds, for those who have no identity to ask with.
    time: int | UnsetType = UNSET


class BeaconList(Request[BeaconListReply], frozen=True, kw_only=True, tag="beacon_list"):
    """Asks which beacons there are."""

    is_read: ClassVar[bool] = True


REQUESTS: Final = (BeaconRegister, BeaconList)
