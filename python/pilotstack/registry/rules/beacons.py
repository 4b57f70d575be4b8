"""Beacons that announce themselves. Not durable: each repeats its announcement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.transient import Beacon
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.beacons import (
    BeaconList,
    BeaconListReply,
    BeaconRegister,
    BeaconRegisterReply,
    BeaconRow,
)
from pilotstack.registry.rules.registration import endpoint_of

if TYPE_CHECKING:
    from pilotstack.registry.model.state import State
    from pilotstack.registry.rules.call import Call, Handlers

#: Seconds after which a silent beacon is forgotten.
BEACON_TTL: Final = 60.0
MAX_BEACONS: Final = 256


def beacon_register(call: Call[BeaconRegister]) -> BeaconRegisterReply:
    """Records where a beacon is. If there is an admin token, it is required; if not, a beacon can
    name only the address that it speaks from, and take no id of another."""
    beacon_id, addr = call.request.beacon_id, call.request.addr
    if beacon_id == 0:
        raise Denied("beacon_id required", Code.INVALID)
    if not addr:
        raise Denied("addr required", Code.INVALID)
    is_admin, source = call.is_admin(), call.source
    if call.state.policy.admin_token and not is_admin:
        raise Denied("invalid admin token", Code.ADMIN_TOKEN)
    beacons = call.state.beacons
    for silent in [key for key, row in beacons.items() if call.now - row.seen > BEACON_TTL]:
        del beacons[silent]
    known = beacons.get(beacon_id)
    if known is not None and known.host != source.host and not is_admin:
        raise Denied(f"beacon_id {beacon_id} already registered", Code.ALREADY)
    if known is None and len(beacons) >= MAX_BEACONS:
        raise Denied(f"too many beacons (max {MAX_BEACONS})", Code.INVALID)
    endpoint = endpoint_of(addr, source, may_name=is_admin)
    beacons[beacon_id] = Beacon(endpoint, source.host, call.now)
    return BeaconRegisterReply(beacon_id=beacon_id)


def beacon_list(call: Call[BeaconList]) -> BeaconListReply:
    """Beacons that were heard of lately."""
    return BeaconListReply(beacons=live_beacons(call.state, call.now), time=int(call.wall))


def live_beacons(state: State, now: float) -> tuple[BeaconRow, ...]:
    """Beacons that were heard of lately, by their ids."""
    return tuple(
        BeaconRow(beacon_id, beacon.addr)
        for beacon_id, beacon in sorted(state.beacons.items())
        if now - beacon.seen <= BEACON_TTL
    )


HANDLERS: Final[Handlers] = {
    BeaconRegister: beacon_register,
    BeaconList: beacon_list,
}
