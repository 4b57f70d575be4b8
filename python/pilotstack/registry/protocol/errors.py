"""Refusals: a text for people and old clients, and a code for programs.

Clients of registries that send no code classify the text; see
:mod:`pilotstack.registry.client.refusals`.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a request is refused."""

    ADMIN_TOKEN = "admin_token_required"
    ALREADY = "already"
    CREATION_DISABLED = "network_creation_disabled"
    DENIED = "denied"
    EXPIRED = "expired"
    FOREIGN = "foreign"
    FULL = "full"
    INTERNAL = "internal"
    INVALID = "invalid"
    INVALID_NAME = "invalid_name"
    INVITE_ONLY = "invite_only"
    JOIN_TOKEN = "invalid_join_token"
    MEMBER = "already_member"
    NAME_NOT_FOUND = "name_not_found"
    NAME_TAKEN = "name_taken"
    NETWORK_NOT_FOUND = "network_not_found"
    NETWORKS_LIMITED = "too_many_new_networks"
    NODE_NOT_FOUND = "node_not_found"
    NOT_FOUND = "not_found"
    NOT_MEMBER = "not_a_member"
    NOT_STORED = "not_stored"
    NO_INVITE = "no_invite"
    NO_TRUST = "no_trust"
    PRIVATE = "private"
    RATE_LIMITED = "rate_limited"
    RECOVERY_SECRET = "invalid_recovery_secret"
    REPLAYED = "signature_used"
    ROLE = "role_required"
    SIGNATURE = "signature"
    SIGNATURE_TIME = "signature_time"
    STANDBY = "standby"
    UNKNOWN_TYPE = "unknown_type"


#: Codes that any request can be refused with, whatever it asks.
COMMON = frozenset(
    {
        *(Code.FOREIGN, Code.INTERNAL, Code.NOT_STORED, Code.RATE_LIMITED, Code.STANDBY),
    }
)


class Denied(Exception):
    """The request is refused.

    Args:
        text: goes to the client.
        code: goes beside it.
    """

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code
