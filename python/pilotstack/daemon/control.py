"""The control verbs of the daemon's socket: JSON answers for people and programs."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import msgspec

from pilotstack import wellknown
from pilotstack.daemon.envelopes import EnvelopeVerbs
from pilotstack.daemon.records import OUTAGE
from pilotstack.daemon.trust import TrustVerbs
from pilotstack.errors import ConnectionFailed, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.supervisor import Daemon

INFO = 0x0D
HANDSHAKE = 0x0F
RESOLVE_HOSTNAME = 0x11
SET_HOSTNAME = 0x13
SET_VISIBILITY = 0x15
DEREGISTER = 0x17
SET_TAGS = 0x19
NETWORK = 0x1F
HEALTH = 0x21
MANAGED = 0x23
ROTATE_KEY = 0x25
BROADCAST = 0x29
PREFER_DIRECT = 0x2D
ENROLL_RECOVERY = 0x31
SIGN_ENVELOPE = 0x33
VERIFY_ENVELOPE = 0x35
#: Of our own, as the answer that has one more.
REGISTER = 0x81

#: Verbs that are answered without asking anybody.
LOCAL_VERBS = frozenset({INFO, HEALTH})
#: Seconds for which a resolved name is taken from memory. A registry that was restored may name
#: another node, and nobody tells us of that.
CACHE = 2.0
_MAX_CACHED = 4096
#: Rows of a list in an answer; a row has up to 700 octets, a frame 2**20.
_MAX_ROWS = 700
_NANOS_PER_MS = 1e6
#: What existing clients may rely on.
FEATURES = ("dgram_confirm", "dial_awaits_key", "reply_window")
#: States as existing clients know them.
_STATES = {
    "SYN-SENT": "SYN_SENT",
    "SYN-RECEIVED": "SYN_RECV",
    "FIN-WAIT-1": "FIN_WAIT",
    "FIN-WAIT-2": "FIN_WAIT",
    "CLOSE-WAIT": "CLOSE_WAIT",
    "CLOSING": "FIN_WAIT",
    "LAST-ACK": "CLOSE_WAIT",
    "TIME-WAIT": "TIME_WAIT",
}


class Control:
    """Answers one daemon's drivers."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._started = time.monotonic()
        self._names: dict[str, tuple[float, dict[str, Any]]] = {}
        envelopes = EnvelopeVerbs(daemon)
        self._verbs: dict[int, Callable[[bytes], Awaitable[dict[str, Any]]]] = {
            INFO: self._info,
            HANDSHAKE: TrustVerbs(daemon).answer,
            RESOLVE_HOSTNAME: self._resolve_hostname,
            SET_HOSTNAME: self._set_hostname,
            SET_VISIBILITY: self._set_visibility,
            DEREGISTER: self._deregister,
            REGISTER: self._register,
            ROTATE_KEY: self._rotate_key,
            ENROLL_RECOVERY: self._enroll_recovery,
            PREFER_DIRECT: envelopes.prefer_direct,
            SIGN_ENVELOPE: envelopes.sign,
            VERIFY_ENVELOPE: envelopes.verify,
            SET_TAGS: daemon.network_verbs.set_tags,
            NETWORK: daemon.network_verbs.network,
            MANAGED: daemon.network_verbs.managed,
            BROADCAST: daemon.network_verbs.broadcast,
            HEALTH: self._health,
        }

    async def answer(self, command: int, payload: bytes, *, has_id: bool) -> bytes:
        """The body of the reply frame: the verb's code plus one, and JSON.

        Args:
            has_id: the driver speaks our extension.

        Raises:
            PilotError: the request is refused.
        """
        verb = self._verbs.get(command)
        if verb is None:
            raise Unavailable(f"unknown command: 0x{command:02X}")
        reply = await verb(payload)
        if command == BROADCAST and not has_id:
            # Existing drivers know this answer without a payload.
            return bytes((command + 1,))
        return bytes((command + 1,)) + msgspec.json.encode(reply)

    async def _info(self, payload: bytes) -> dict[str, Any]:
        del payload
        daemon = self._daemon
        snapshot = daemon.core.snapshot()
        info = {
            name: snapshot[name]
            for name in (
                *("connections", "ports", "peers", "encrypted_peers"),
                *("bytes_sent", "bytes_recv", "pkts_sent", "pkts_recv", "peer_list"),
            )
        }
        info |= {
            "node_id": daemon.node_id,
            "address": daemon.address,
            "hostname": daemon.hostname,
            "uptime_secs": int(time.monotonic() - self._started),
            "authenticated_peers": sum(peer["authenticated"] for peer in snapshot["peer_list"]),
            "encrypt": True,
            "identity": daemon.config.identity is not None,
            "public_key": base64.b64encode(daemon.identity.public_key).decode("ascii"),
            "owner": daemon.config.owner,
            "email": daemon.config.owner,
            "endpoint": daemon.endpoint,
            "version": wellknown.VERSION,
            "transport": "udp",
            "beacon_addr": daemon.config.beacon,
            "features": FEATURES,
            "networks": daemon.network_verbs.rows(),
            "handshake_pending_count": len(daemon.trust.trust.rows.pending),
            "handshakes_relayed": daemon.inbox.taken,
            "relay_peer_count": 0,
            "tunnel_encryption_success": snapshot["opened"],
            "tunnel_encryption_failure": snapshot["dropped_unauthentic"],
            "ptb_recv": snapshot["ptb_recv"],
            "accept_queue_drops": 0,
            # Octets of memory held for readers, and for peers that have not acknowledged.
            "recv_held": snapshot["recv_held"],
            "send_held": snapshot["send_held"],
            "dropped": {
                name.removeprefix("dropped_"): value
                for name, value in snapshot.items()
                if name.startswith("dropped_")
            }
            | {f"handshake_{name}": value for name, value in daemon.trust.dropped.items()},
        }
        return (
            info
            | _cut("conn_list", _open_first(snapshot["conn_list"]))
            | _cut("peer_list", info["peer_list"])
        )

    async def _health(self, payload: bytes) -> dict[str, Any]:
        info = await self._info(payload)
        names = ("connections", "peers", "encrypted_peers", "authenticated_peers", "bytes_sent")
        more = ("bytes_recv", "relay_peer_count", "handshake_pending_count", "accept_queue_drops")
        return {
            "status": "ok",
            "uptime_seconds": info["uptime_secs"],
            "beacon_addr": info["beacon_addr"],
        } | {name: info[name] for name in names + more}

    async def _resolve_hostname(self, payload: bytes) -> dict[str, Any]:
        name = _text(payload, "resolve_hostname: missing hostname")
        now = time.monotonic()
        until, found = self._names.get(name, (0.0, {}))
        if now >= until:
            try:
                found = await self._daemon.registry.resolve_hostname(name)
            except ConnectionFailed:
                # Tunnels outlive an outage of the registry, and so do the names of their ends.
                if not found or now - until > OUTAGE:
                    raise
                return found
            if len(self._names) >= _MAX_CACHED:
                self._names.clear()
            self._names[name] = (now + CACHE, found)
        return found

    def forget_names(self) -> None:
        """Asks the registry again: it may have been emptied or restored."""
        self._names.clear()

    async def _set_hostname(self, payload: bytes) -> dict[str, Any]:
        name = payload.decode(errors="replace")
        reply = await self._daemon.registry.set_hostname(name)
        self._daemon.hostname = name
        return reply

    async def _set_visibility(self, payload: bytes) -> dict[str, Any]:
        if not payload:
            raise InvalidArgument("set_visibility: missing value")
        return await self._daemon.set_visibility(public=payload[0] == 1)

    async def _deregister(self, payload: bytes) -> dict[str, Any]:
        del payload
        return await self._daemon.deregister()

    async def _register(self, payload: bytes) -> dict[str, Any]:
        del payload
        daemon = self._daemon
        error = await daemon.register()
        reply = {
            "type": "register_ok",
            "node_id": daemon.node_id,
            "address": daemon.address,
            "hostname": daemon.hostname,
            "public_key": base64.b64encode(daemon.identity.public_key).decode("ascii"),
        }
        return reply | ({"hostname_error": error} if error else {})

    async def _rotate_key(self, payload: bytes) -> dict[str, Any]:
        del payload
        return await self._daemon.rotate_key()

    async def _enroll_recovery(self, payload: bytes) -> dict[str, Any]:
        try:
            commitment = msgspec.json.decode(payload, type=dict[str, Any]).get("commitment")
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument(f"enroll_recovery: invalid JSON: {error}") from error
        if not isinstance(commitment, str):
            raise Unavailable("enroll_recovery: only commitments to a secret are known here")
        return await self._daemon.registry.enroll_recovery(commitment)


def _open_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = [_connection(row) for row in rows]
    return sorted(shown, key=lambda row: row["state"] == "TIME_WAIT")


def _cut(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A list that leaves room in one frame; counters beside it stay exact."""
    cut: dict[str, Any] = {name: rows[:_MAX_ROWS]}
    return cut | {f"{name}_truncated": True} if len(rows) > _MAX_ROWS else cut


def _text(payload: bytes, missing: str) -> str:
    if not payload:
        raise InvalidArgument(missing)
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("not UTF-8") from error


def _connection(row: dict[str, Any]) -> dict[str, Any]:
    shown = dict(row)
    shown["state"] = _STATES.get(row["state"], row["state"])
    for name in ("srtt", "rttvar", "min_rtt"):
        shown[f"{name}_ms"] = round(shown.pop(f"{name}_ns") / _NANOS_PER_MS, 3)
    return shown
