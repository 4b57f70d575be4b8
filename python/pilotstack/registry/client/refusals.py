"""What the registry's refusals mean: it sends texts, callers want types, codes and hints."""

from __future__ import annotations

from typing import NamedTuple

from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
    Throttled,
)


class _Rule(NamedTuple):
    text: str
    error: type[PilotError]
    hint: str | None = None
    #: Whether the message says that it is the registry's.
    is_prefixed: bool = False


_ADMIN_HINT = "give the registry's token with --admin-token or PILOT_ADMIN_TOKEN"

#: The first rule whose text occurs decides.
_RULES = (
    _Rule(
        "standby mode",
        ConnectionFailed,
        "name the primary in --registry, or promote this standby",
        is_prefixed=True,
    ),
    _Rule(
        "registry cannot store",
        ConnectionFailed,
        "nothing was changed; tell the registry's operator, or try again later",
    ),
    _Rule("rate limited", Throttled, "wait a few seconds and try again", is_prefixed=True),
    _Rule("too many new networks", Throttled, "networks can be made again after a while"),
    _Rule("invalid token for network", PermissionDenied, "give the network's token with --token"),
    _Rule(
        "invite-only networks",
        PermissionDenied,
        "ask a member to invite you, then: pilotctl network accept NETWORK",
    ),
    _Rule("admin token", PermissionDenied, _ADMIN_HINT),
    _Rule("network creation is disabled", PermissionDenied, _ADMIN_HINT),
    _Rule("invalid recovery secret", PermissionDenied, "give the secret that was enrolled"),
    _Rule("requires role", PermissionDenied, "ask who owns the network, or give its admin token"),
    _Rule("not a member", PermissionDenied, "a node joins with: pilotctl network join NETWORK"),
    _Rule("no pending invite", NotFound, "see what you are invited to: pilotctl network invites"),
    _Rule("network not found", NotFound, "see which networks there are: pilotctl network list"),
    _Rule("node not found", NotFound, "check the id; the node may have been deregistered"),
    _Rule('" not found', NotFound, "check the spelling; a node that deregisters loses its name"),
    _Rule("not found", NotFound),
    _Rule(
        "signature already used",
        PermissionDenied,
        "the same request was sent within a second; send it again",
    ),
    _Rule("already in network", AlreadyExists),
    _Rule("already in use", AlreadyExists, "choose another name"),
    _Rule("already exists", AlreadyExists, "choose another name"),
    _Rule("already", AlreadyExists),
    _Rule("private", PermissionDenied, "the node must be public, trust you or share a network"),
    _Rule("denied", PermissionDenied),
    _Rule("not permitted", PermissionDenied),
    _Rule("signature", PermissionDenied),
    _Rule("expired", PermissionDenied),
    _Rule(
        "must be lowercase",
        InvalidArgument,
        "use a to z, 0 to 9 and hyphens, with none at the beginning or end",
    ),
    _Rule("invalid", InvalidArgument),
    _Rule("require", InvalidArgument),
    _Rule("too long", InvalidArgument),
    _Rule("too many", InvalidArgument),
    _Rule("must be", InvalidArgument),
    _Rule("is reserved", InvalidArgument),
    _Rule("cannot", InvalidArgument),
)


def error_of(text: str) -> PilotError:
    """The error for a refusal of the registry."""
    for rule in _RULES:
        if rule.text in text:
            message = f"registry: {text}" if rule.is_prefixed else text
            return rule.error(message, hint=rule.hint)
    return ConnectionFailed(f"registry: {text}")
