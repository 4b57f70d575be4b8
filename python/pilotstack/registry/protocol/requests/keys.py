"""Requests about a node's key over time."""

from __future__ import annotations

from typing import ClassVar, Final

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import NodeId, OptionalText, R, Reply, Request
from pilotstack.registry.protocol.requests.identity import AboutNode

_SIGNED = frozenset({Code.NODE_NOT_FOUND, Code.SIGNATURE})


class NewKeyReply(Reply, frozen=True):
    """The key that a node has now."""

    node_id: NodeId
    address: str
    public_key: str


class RotateKeyReply(NewKeyReply, frozen=True, tag="rotate_key_ok"):
    """The new key."""


class RecoverIdentityReply(NewKeyReply, frozen=True, tag="recover_identity_ok"):
    """The new key."""


class NewKey(Request[R], frozen=True, kw_only=True):
    """A request for another key."""

    node_id: NodeId = 0
    #: 32 bytes in base64.
    new_public_key: str = ""


class RotateKey(NewKey[RotateKeyReply], frozen=True, kw_only=True, tag="rotate_key"):
    """Replaces a key by signature of the old one."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.ALREADY, Code.INVALID, Code.REPLAYED}

    def challenge(self) -> str:
        """``rotate:NODE:NEW_KEY``."""
        return f"rotate:{self.node_id}:{self.new_public_key}"

    def old_challenge(self) -> str:
        """``rotate:NODE``, as the first generation signs: it does not cover the new key."""
        return f"rotate:{self.node_id}"


class EnrollRecoveryReply(Reply, frozen=True, tag="enroll_recovery_ok"):
    """Whether there is a secret now."""

    node_id: NodeId
    enrolled: bool


class EnrollRecovery(
    AboutNode[EnrollRecoveryReply], frozen=True, kw_only=True, tag="enroll_recovery"
):
    """Stores the commitment to a secret that may replace the node's key one day."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {Code.INVALID}

    #: SHA-256 of the secret, in lower-case hexadecimal; empty takes it back.
    commitment: str = ""

    def challenge(self) -> str:
        """``enroll_recovery:NODE:COMMITMENT``."""
        return f"enroll_recovery:{self.node_id}:{self.commitment}"


class RecoverIdentity(
    NewKey[RecoverIdentityReply], frozen=True, kw_only=True, tag="recover_identity"
):
    """Installs a new key by the recovery secret, or by the admin token."""

    errors: ClassVar[frozenset[Code]] = _SIGNED | {
        *(Code.ALREADY, Code.INVALID, Code.RECOVERY_SECRET),
    }

    recovery_secret: OptionalText = ""

    def challenge(self) -> str:
        """``recover_identity:NODE:NEW_KEY``, signed by the new key."""
        return f"recover_identity:{self.node_id}:{self.new_public_key}"


class GetKeyInfoReply(Reply, frozen=True, tag="get_key_info_ok"):
    """How old a key is; times as RFC 3339."""

    node_id: NodeId
    created_at: str
    rotate_count: int
    key_age_days: int
    rotated_at: str = ""
    expires_at: str = ""


class GetKeyInfo(AboutNode[GetKeyInfoReply], frozen=True, kw_only=True, tag="get_key_info"):
    """Asks how old a key is."""

    is_read: ClassVar[bool] = True
    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = frozenset({Code.NODE_NOT_FOUND})


class SetKeyExpiryReply(Reply, frozen=True, tag="set_key_expiry_ok"):
    """When the key expires, as RFC 3339; never if it is empty."""

    node_id: NodeId
    expires_at: str = ""


class SetKeyExpiry(AboutNode[SetKeyExpiryReply], frozen=True, kw_only=True, tag="set_key_expiry"):
    """Sets when heartbeats stop to count."""

    errors: ClassVar[frozenset[Code]] = AboutNode.errors | {Code.INVALID}

    #: RFC 3339; empty means never.
    expires_at: str = ""


REQUESTS: Final = (RotateKey, EnrollRecovery, RecoverIdentity, GetKeyInfo, SetKeyExpiry)
