"""Beacons that announce themselves (sheet 3.9). Not durable: each repeats itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.transient import Beacon
from pilotstack.registry.rules.registration import endpoint_of

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

#: Seconds after which a beacon that is silent is forgotten.
BEACON_TTL: Final = 60.0
MAX_BEACONS: Final = 256


def beacon_register(call: Call) -> Message:
    """With an admin token configured, it takes that. Without, a beacon can only name the address
    that it speaks from, and nobody else's id."""
    beacon_id, addr = call.number("beacon_id"), call.text("addr")
    if beacon_id == 0:
        raise Denied("beacon_id required")
    if not addr:
        raise Denied("addr required")
    is_admin, source = call.is_admin(), call.source
    if call.state.policy.admin_token and not is_admin:
        raise Denied("invalid admin token")
    beacons = call.state.beacons
    for silent in [key for key, row in beacons.items() if call.now - row.seen > BEACON_TTL]:
        del beacons[silent]
    known = beacons.get(beacon_id)
    if known is not None and known.host != source.host and not is_admin:
        raise Denied(f"beacon_id {beacon_id} already registered")
    if known is None and len(beacons) >= MAX_BEACONS:
        raise Denied(f"too many beacons (max {MAX_BEACONS})")
    endpoint = endpoint_of(addr, source, may_name=is_admin)
    beacons[beacon_id] = Beacon(endpoint, source.host, call.now)
    return {"beacon_id": beacon_id}


def beacon_list(call: Call) -> Message:
    """Those that said something lately."""
    return {
        "beacons": [
            {"id": beacon_id, "addr": beacon.addr}
            for beacon_id, beacon in call.state.beacons.items()
            if call.now - beacon.seen <= BEACON_TTL
        ]
    }


HANDLERS: Final[dict[str, Handler]] = {
    "beacon_register": beacon_register,
    "beacon_list": beacon_list,
}
