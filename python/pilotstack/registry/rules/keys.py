"""Keys over time (sheet 3.3, 3.10; whitepaper 5): rotation by signature, recovery by a secret.

The whitepaper lets an owner's e-mail address stand in for a lost key. An address is no secret, so
here it takes one that the node enrolled beforehand, or the operator; and the new key is the
client's own, since private keys do not travel.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import KeyInfo, Recovery, Rotation
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.values import read_key
from pilotstack.registry.rules import freshness
from pilotstack.registry.rules.call import changed

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

#: Rotations of one node by signatures that do not cover the new key.
MAX_LEGACY_ROTATIONS: Final = 32
_COMMITMENT: Final = re.compile(r"[0-9a-f]{64}")
_MAX_SECRET: Final = 1024
_DAY: Final = 86_400


def rotate_key(call: Call) -> Message:
    """Replaces the key. The signature is the old key's, over ``rotate:<node>:<new key>``; without
    the new key, as the first generation signs, it serves once, for nodes that cannot do better."""
    node = call.live()
    signature, key_text = call.text("signature"), call.text("new_public_key")
    if not signature:
        raise Denied("rotate_key requires a valid signature")
    key = _new_key(call, node)
    node_id = node.node_id
    verify = call.state.verifier.verify
    try:
        verify(node.public_key, signature, f"rotate:{node_id}:{key_text}")
    except Denied:
        if node.is_signed:
            raise
        verify(node.public_key, signature, f"rotate:{node_id}")
        _use_once(call, node, signature)
    call.state.touch(node_id, call.now)
    return _install(call, call.settle(node), key)


def _new_key(call: Call, node: Node) -> bytes:
    key_text = call.text("new_public_key")
    if not key_text:
        raise Denied(f"{call.text('type')} requires new_public_key")
    try:
        key = read_key(key_text)
    except ValueError as error:
        raise Denied(f"invalid new_public_key: {error}") from error
    if call.state.by_key.get(key, node.node_id) != node.node_id:
        raise Denied("public key already registered")
    return key


def _use_once(call: Call, node: Node, signature: str) -> None:
    octets = values.decode_base64(signature, values.SIGNATURE_LEN)
    digest = hashlib.blake2b(octets, digest_size=16).hexdigest()
    used = call.state.rotations.of(node.node_id)
    if digest in used:
        raise Denied("signature already used: sign rotate:<node>:<new key>")
    if sum(not name.startswith(freshness.MARK) for name in used) >= MAX_LEGACY_ROTATIONS:
        raise Denied("too many rotations with signatures that do not cover the new key")
    call.put("rotations", (node.node_id, digest), Rotation(call.at))


def _install(call: Call, node: Node, key: bytes) -> Message:
    info = call.state.keys.get(node.node_id) or KeyInfo()
    if key != node.public_key:
        call.put_node(changed(node, public_key=key))
        call.put("keys", node.node_id, KeyInfo(rotated=call.at, rotations=info.rotations + 1))
    return {
        "node_id": node.node_id,
        "address": node.address,
        "public_key": values.encode_base64(key),
    }


def enroll_recovery(call: Call) -> Message:
    """Notes what may replace the node's key one day: ``commitment`` is the SHA-256 of a secret, in
    lower-case hex; an empty one takes it back."""
    node, commitment = call.live(), call.text("commitment")
    if commitment and not _COMMITMENT.fullmatch(commitment):
        raise Denied("invalid commitment: SHA-256 in lower-case hex required")
    node_id = node.node_id
    call.authenticate(node, f"enroll_recovery:{node_id}:{commitment}")
    stored = call.state.recoveries.get(node_id)
    is_same = bool(stored and commitment and call.is_secret(commitment, stored.commitment_hash))
    if not commitment:
        call.put("recoveries", node_id, None)
    elif not is_same:
        hashed = call.hash_token(commitment, node_id, "recovery")
        call.put("recoveries", node_id, Recovery(hashed))
    return {"node_id": node_id, "enrolled": bool(commitment)}


def recover_identity(call: Call) -> Message:
    """Installs a new key for whoever has the secret, or for the operator. The new key signs
    ``recover_identity:<node>:<new key>``; the secret has been shown now and is spent."""
    node_id = call.number("node_id")
    node = call.state.nodes.get(node_id)
    if node is None:
        raise Denied(f"node {node_id}: node not found")
    if not call.is_admin() and not _has_secret(call, node_id):
        raise Denied("recovery denied: invalid recovery secret")
    key, key_text = _new_key(call, node), call.text("new_public_key")
    signature = call.text("signature")
    if not signature:
        raise Denied("recover_identity requires a signature by the new key")
    call.state.verifier.verify(key, signature, f"recover_identity:{node_id}:{key_text}")
    call.put("recoveries", node_id, None)
    return _install(call, changed(node, is_signed=True, is_unconfirmed=False), key)


def _has_secret(call: Call, node_id: int) -> bool:
    secret = call.text("recovery_secret")
    if secret:
        call.state.guesses.check(call.source.host, call.now)
    stored = call.state.recoveries.get(node_id)
    if not secret or len(secret) > _MAX_SECRET or stored is None:
        return False
    commitment = hashlib.sha256(secret.encode()).hexdigest()
    return call.matches(commitment, stored.commitment_hash, "recovery_secret")


def get_key_info(call: Call) -> Message:
    """How old a key is."""
    node = call.live()
    info = call.state.keys.get(node.node_id) or KeyInfo()
    since = info.rotated or node.registered or call.now
    reply: Message = {
        "node_id": node.node_id,
        "created_at": values.rfc3339(node.registered or since),
        "rotate_count": info.rotations,
        "key_age_days": max(0, int(call.now - since) // _DAY),
    }
    if info.rotated:
        reply["rotated_at"] = values.rfc3339(info.rotated)
    if info.expires:
        reply["expires_at"] = values.rfc3339(info.expires)
    return reply


def set_key_expiry(call: Call) -> Message:
    """When heartbeats stop to count, in RFC 3339; an empty time means never."""
    node, text = call.live(), call.text("expires_at")
    try:
        expires = int(values.from_rfc3339(text)) if text else 0
    except ValueError as error:
        raise Denied("invalid expires_at: RFC 3339 required") from error
    call.authorize(node, f"set_key_expiry:{node.node_id}")
    if text and expires <= call.wall:
        raise Denied("invalid expires_at: in the past")
    info = call.state.keys.get(node.node_id) or KeyInfo()
    info = msgspec.structs.replace(info, expires=expires)
    call.put("keys", node.node_id, info if info != KeyInfo() else None)
    reply: Message = {"node_id": node.node_id}
    if expires:
        reply["expires_at"] = values.rfc3339(expires)
    return reply


HANDLERS: Final[dict[str, Handler]] = {
    "rotate_key": rotate_key,
    "enroll_recovery": enroll_recovery,
    "recover_identity": recover_identity,
    "get_key_info": get_key_info,
    "set_key_expiry": set_key_expiry,
}
