"""Keys over time: rotation by signature, recovery by a secret.

The node enrolls the secret beforehand, or the operator steps in: an owner's e-mail address, which
the protocol's authors let stand in for a lost key, is no secret. The new key is the client's own,
since private keys do not travel.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model.rows import KeyInfo, Recovery, Rotation
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.keys import (
    EnrollRecovery,
    EnrollRecoveryReply,
    GetKeyInfo,
    GetKeyInfoReply,
    RecoverIdentity,
    RecoverIdentityReply,
    RotateKey,
    RotateKeyReply,
    SetKeyExpiry,
    SetKeyExpiryReply,
)
from pilotstack.registry.rules import freshness
from pilotstack.registry.rules.call import changed

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.rules.call import Call, Handlers

#: Rotations of one node by signatures that do not cover the new key.
MAX_LEGACY_ROTATIONS: Final = 32
_COMMITMENT: Final = re.compile(r"[0-9a-f]{64}")
#: Characters of a recovery secret.
_MAX_SECRET: Final = 1024
_DAY: Final = 86_400


def rotate_key(call: Call[RotateKey]) -> RotateKeyReply:
    """Replaces a node's key by signature of the old one. A signature that does not cover the new
    key, as the first generation makes, serves once, for nodes that cannot do better."""
    request = call.request
    node = call.live(request.node_id)
    if not request.signature:
        raise Denied("rotate_key requires a valid signature", Code.SIGNATURE)
    key = _new_key(call, node)
    verify = call.state.verifier.verify
    try:
        verify(node.public_key, request.signature, request.challenge())
    except Denied:
        if node.is_signed:
            raise
        verify(node.public_key, request.signature, request.old_challenge())
        _use_once(call, node)
    call.state.touch(node.node_id, call.now)
    node = _install(call, call.settle(node), key)
    return RotateKeyReply(
        node_id=node.node_id, address=node.address, public_key=values.encode_base64(key)
    )


def _new_key(call: Call[RotateKey] | Call[RecoverIdentity], node: Node) -> bytes:
    request = call.request
    if not request.new_public_key:
        kind = request.__struct_config__.tag
        raise Denied(f"{kind} requires new_public_key", Code.INVALID)
    try:
        key = values.read_key(request.new_public_key)
    except ValueError as error:
        raise Denied(f"invalid new_public_key: {error}", Code.INVALID) from error
    if call.state.by_key.get(key, node.node_id) != node.node_id:
        raise Denied("public key already registered", Code.ALREADY)
    return key


def _use_once(call: Call[RotateKey], node: Node) -> None:
    signature = values.decode_base64(call.request.signature, values.SIGNATURE_LEN)
    digest = hashlib.blake2b(signature, digest_size=16).hexdigest()
    used = call.state.rotations.of(node.node_id)
    if digest in used:
        raise Denied("signature already used: sign rotate:<node>:<new key>", Code.REPLAYED)
    if sum(not name.startswith(freshness.MARK) for name in used) >= MAX_LEGACY_ROTATIONS:
        text = "too many rotations with signatures that do not cover the new key"
        raise Denied(text, Code.SIGNATURE)
    call.put("rotations", (node.node_id, digest), Rotation(call.at))


def _install(call: Call[RotateKey] | Call[RecoverIdentity], node: Node, key: bytes) -> Node:
    info = call.state.keys.get(node.node_id) or KeyInfo()
    if key == node.public_key:
        return node
    node = changed(node, public_key=key)
    call.put_node(node)
    call.put("keys", node.node_id, KeyInfo(rotated=call.at, rotations=info.rotations + 1))
    return node


def enroll_recovery(call: Call[EnrollRecovery]) -> EnrollRecoveryReply:
    """Stores the commitment to a node's recovery secret, or removes it."""
    node, commitment = call.live(call.request.node_id), call.request.commitment
    if commitment and not _COMMITMENT.fullmatch(commitment):
        raise Denied("invalid commitment: SHA-256 in lower-case hex required", Code.INVALID)
    node_id = node.node_id
    call.authenticate(node)
    stored = call.state.recoveries.get(node_id)
    is_same = bool(stored and commitment and call.is_secret(commitment, stored.commitment_hash))
    if not commitment:
        call.put("recoveries", node_id, None)
    elif not is_same:
        hashed = call.hash_token(commitment, node_id, "recovery")
        call.put("recoveries", node_id, Recovery(hashed))
    return EnrollRecoveryReply(node_id=node_id, enrolled=bool(commitment))


def recover_identity(call: Call[RecoverIdentity]) -> RecoverIdentityReply:
    """Installs a new key, by the recovery secret, which is used up, or by the admin token."""
    request = call.request
    node_id = request.node_id
    node = call.state.nodes.get(node_id)
    if node is None:
        raise Denied(f"node {node_id}: node not found", Code.NODE_NOT_FOUND)
    if not call.is_admin() and not _has_secret(call):
        raise Denied("recovery denied: invalid recovery secret", Code.RECOVERY_SECRET)
    key = _new_key(call, node)
    if not request.signature:
        text = "recover_identity requires a signature by the new key"
        raise Denied(text, Code.SIGNATURE)
    call.state.verifier.verify(key, request.signature, request.challenge())
    call.put("recoveries", node_id, None)
    node = _install(call, changed(node, is_signed=True, is_unconfirmed=False), key)
    return RecoverIdentityReply(
        node_id=node_id, address=node.address, public_key=values.encode_base64(key)
    )


def _has_secret(call: Call[RecoverIdentity]) -> bool:
    secret = call.request.recovery_secret
    if secret:
        call.state.guesses.check(call.source.host, call.now)
    stored = call.state.recoveries.get(call.request.node_id)
    if not secret or len(secret) > _MAX_SECRET or stored is None:
        return False
    commitment = hashlib.sha256(secret.encode()).hexdigest()
    return call.matches(commitment, stored.commitment_hash, "recovery_secret")


def get_key_info(call: Call[GetKeyInfo]) -> GetKeyInfoReply:
    """The age of a node's key."""
    node = call.live(call.request.node_id)
    info = call.state.keys.get(node.node_id) or KeyInfo()
    since = info.rotated or node.registered or call.now
    return GetKeyInfoReply(
        node_id=node.node_id,
        created_at=values.rfc3339(node.registered or since),
        rotate_count=info.rotations,
        key_age_days=max(0, int(call.now - since) // _DAY),
        rotated_at=values.rfc3339(info.rotated) if info.rotated else "",
        expires_at=values.rfc3339(info.expires) if info.expires else "",
    )


def set_key_expiry(call: Call[SetKeyExpiry]) -> SetKeyExpiryReply:
    """Sets when a key expires."""
    node, text = call.live(call.request.node_id), call.request.expires_at
    try:
        expires = int(values.from_rfc3339(text)) if text else 0
    except ValueError as error:
        raise Denied("invalid expires_at: RFC 3339 required", Code.INVALID) from error
    call.authorize(node)
    if text and expires <= call.wall:
        raise Denied("invalid expires_at: in the past", Code.INVALID)
    info = call.state.keys.get(node.node_id) or KeyInfo()
    info = msgspec.structs.replace(info, expires=expires)
    call.put("keys", node.node_id, info if info != KeyInfo() else None)
    return SetKeyExpiryReply(
        node_id=node.node_id, expires_at=values.rfc3339(expires) if expires else ""
    )


HANDLERS: Final[Handlers] = {
    RotateKey: rotate_key,
    EnrollRecovery: enroll_recovery,
    RecoverIdentity: recover_identity,
    GetKeyInfo: get_key_info,
    SetKeyExpiry: set_key_expiry,
}
