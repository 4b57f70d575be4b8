"""What a registry's refusals mean to a program: an error type, a message and a hint.

Our own registry sends a code beside the text. The texts of other registries are classified by what
they contain; that is done here and nowhere else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
    Throttled,
)
from pilotstack.registry.protocol.errors import Code


class _Meaning(NamedTuple):
    error: type[PilotError]
    hint: str | None = None
    #: The message says that it is the registry's.
    is_prefixed: bool = False


_ADMIN_HINT = "give the registry's token with --admin-token or PILOT_ADMIN_TOKEN"
_NAME_HINT = "choose another name"
#: The text of every refusal of a first-generation registry.
_UNEXPLAINED: Final = "request failed"
_CODES: Final = frozenset(Code)
_UNKNOWN: Final = _Meaning(ConnectionFailed, is_prefixed=True)

#: A code that is not here means :data:`_UNKNOWN`.
_MEANINGS: Final[dict[str, _Meaning]] = {
    Code.ADMIN_TOKEN: _Meaning(PermissionDenied, _ADMIN_HINT),
    Code.ALREADY: _Meaning(AlreadyExists),
    Code.CREATION_DISABLED: _Meaning(PermissionDenied, _ADMIN_HINT),
    Code.DENIED: _Meaning(PermissionDenied),
    Code.EXPIRED: _Meaning(PermissionDenied),
    Code.INVALID: _Meaning(InvalidArgument),
    Code.INVALID_NAME: _Meaning(
        InvalidArgument,
        "use a to z, 0 to 9 and hyphens, with none at the beginning or end",
    ),
    Code.INVITE_ONLY: _Meaning(
        PermissionDenied, "ask a member to invite you, then: pilotctl network accept NETWORK"
    ),
    Code.JOIN_TOKEN: _Meaning(PermissionDenied, "give the network's token with --token"),
    Code.MEMBER: _Meaning(AlreadyExists),
    Code.NAME_NOT_FOUND: _Meaning(
        NotFound, "check the spelling; a node that deregisters loses its name"
    ),
    Code.NAME_TAKEN: _Meaning(AlreadyExists, _NAME_HINT),
    Code.NETWORK_NOT_FOUND: _Meaning(
        NotFound, "see which networks there are: pilotctl network list"
    ),
    Code.NETWORKS_LIMITED: _Meaning(Throttled, "networks can be made again after a while"),
    Code.NODE_NOT_FOUND: _Meaning(NotFound, "check the id; the node may have been deregistered"),
    Code.NOT_FOUND: _Meaning(NotFound),
    Code.NOT_MEMBER: _Meaning(PermissionDenied, "a node joins with: pilotctl network join NETWORK"),
    Code.NOT_STORED: _Meaning(
        ConnectionFailed, "nothing was changed; tell the registry's operator, or try again later"
    ),
    Code.NO_INVITE: _Meaning(NotFound, "see what you are invited to: pilotctl network invites"),
    Code.PRIVATE: _Meaning(
        PermissionDenied, "the node must be public, trust you or share a network"
    ),
    Code.RATE_LIMITED: _Meaning(Throttled, "wait a few seconds and try again", is_prefixed=True),
    Code.RECOVERY_SECRET: _Meaning(PermissionDenied, "give the secret that was enrolled"),
    Code.REPLAYED: _Meaning(
        PermissionDenied, "the same request was sent within a second; send it again"
    ),
    Code.ROLE: _Meaning(PermissionDenied, "ask who owns the network, or give its admin token"),
    Code.SIGNATURE: _Meaning(PermissionDenied),
    Code.SIGNATURE_TIME: _Meaning(PermissionDenied),
    Code.STANDBY: _Meaning(
        ConnectionFailed,
        "name the primary in --registry, or promote this standby",
        is_prefixed=True,
    ),
}

#: What the texts of registries that send no code contain; the first match decides.
_TEXTS: Final = (
    ("standby mode", Code.STANDBY),
    ("registry cannot store", Code.NOT_STORED),
    ("rate limited", Code.RATE_LIMITED),
    ("too many new networks", Code.NETWORKS_LIMITED),
    ("invalid token for network", Code.JOIN_TOKEN),
    ("invite-only networks", Code.INVITE_ONLY),
    ("admin token", Code.ADMIN_TOKEN),
    ("network creation is disabled", Code.CREATION_DISABLED),
    ("invalid recovery secret", Code.RECOVERY_SECRET),
    ("requires role", Code.ROLE),
    ("not a member", Code.NOT_MEMBER),
    ("no pending invite", Code.NO_INVITE),
    ("network not found", Code.NETWORK_NOT_FOUND),
    ("node not found", Code.NODE_NOT_FOUND),
    ('" not found', Code.NAME_NOT_FOUND),
    ("not found", Code.NOT_FOUND),
    ("signature already used", Code.REPLAYED),
    ("already in network", Code.MEMBER),
    ("already in use", Code.NAME_TAKEN),
    ("already exists", Code.NAME_TAKEN),
    ("already", Code.ALREADY),
    ("private", Code.PRIVATE),
    ("denied", Code.DENIED),
    ("not permitted", Code.DENIED),
    ("signature", Code.SIGNATURE),
    ("expired", Code.EXPIRED),
    ("must be lowercase", Code.INVALID_NAME),
    ("invalid", Code.INVALID),
    ("require", Code.INVALID),
    ("too long", Code.INVALID),
    ("too large", Code.INVALID),
    ("too many", Code.INVALID),
    ("must be", Code.INVALID),
    ("is reserved", Code.INVALID),
    ("cannot", Code.INVALID),
    ("no trust pair", Code.NO_TRUST),
    ("unknown message type", Code.UNKNOWN_TYPE),
    (_UNEXPLAINED, Code.UNKNOWN_TYPE),
)


def code_of(text: str, code: str = "") -> str:
    """The code of a refusal; of one without a code that is known, by its text."""
    if code in _CODES:
        return code
    return next((found for part, found in _TEXTS if part in text), "")


def error_of(text: str, code: str = "") -> PilotError:
    """The error for a refusal.

    Args:
        code: what our own registries send beside the text.
    """
    meaning = _MEANINGS.get(code_of(text, code), _UNKNOWN)
    message = f"registry: {text}" if meaning.is_prefixed else text
    return meaning.error(message, hint=meaning.hint)


def is_unexplained(error: PilotError) -> bool:
    """Whether a refusal is one of a first-generation registry, which gives no reasons."""
    return error.message.endswith(_UNEXPLAINED)


def is_unknown_type(error: PilotError) -> bool:
    """Whether a registry does not know the request, or gives no reason."""
    return code_of(error.message) == Code.UNKNOWN_TYPE


def is_no_trust(error: PilotError) -> bool:
    """Whether there was no trust to revoke."""
    return code_of(error.message) == Code.NO_TRUST
