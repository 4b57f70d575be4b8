"""Payloads about networks, for :meth:`Driver.call`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from pilotstack.client import _frames as f
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.types import JoinRule

_LIST = 0x01
_JOIN = 0x02
_LEAVE = 0x03
_MEMBERS = 0x04
_INVITE = 0x05
_POLL_INVITES = 0x06
_RESPOND = 0x07
_MANAGE = 0x80
#: Port of broadcasts unless another is named, as existing commands have it.
BROADCAST_PORT = 1000

#: A command and its payload.
Call = tuple[int, bytes]


def _network(sub: int, *parts: bytes) -> Call:
    return f.NETWORK, bytes((sub,)) + b"".join(parts)


def _id(network: int) -> bytes:
    return f.u16(network, "network")


def list_networks() -> Call:
    """All networks."""
    return _network(_LIST)


def join(network: int, token: str) -> Call:
    """Become a member."""
    return _network(_JOIN, _id(network), f.text(token, "token", f.MAX_TOKEN, may_be_empty=True))


def leave(network: int) -> Call:
    """End the membership."""
    return _network(_LEAVE, _id(network))


def members(network: int) -> Call:
    """Who is in a network."""
    return _network(_MEMBERS, _id(network))


def invite(network: int, node: int) -> Call:
    """Let a node become a member."""
    return _network(_INVITE, _id(network), f.u32(node, "node"))


def invites() -> Call:
    """What this node is invited to."""
    return _network(_POLL_INVITES)


def respond(network: int, accept: bool) -> Call:
    """Answer an invitation."""
    return _network(_RESPOND, _id(network), bytes((accept,)))


def manage(verb: str, network: int = 0, **members: object) -> Call:
    """What the owner of a network does."""
    given = {name: value for name, value in members.items() if value}
    return _network(_MANAGE, _json({"verb": verb, "network_id": network, **given}))


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"an argument is of no use: {error}") from error


def create(
    name: str, join_rule: JoinRule, token: str, admin_token: str, network_admin_token: str
) -> Call:
    """Make a network."""
    return manage(
        "create",
        name=name,
        join_rule=join_rule,
        token=token,
        admin_token=admin_token,
        network_admin_token=network_admin_token,
    )


def broadcast(network: int, data: bytes, port: int, admin_token: str) -> Call:
    """Send to all members."""
    if f.port(port) == 0:
        raise InvalidArgument("no such port: 0")
    token = f.text(admin_token, "token", f.MAX_TOKEN, may_be_empty=True)
    head = _id(network) + f.u16(port) + f.u16(len(token))
    return f.BROADCAST, head + token + f.payload(data, f.MAX_DATAGRAM)


def set_tags(tags: Sequence[str]) -> Call:
    """Say what this node can be found by."""
    if isinstance(tags, str):
        raise InvalidArgument("tags are a list of strings, not one string")
    return f.SET_TAGS, _json(list(tags))


def enroll_recovery(secret: str) -> Call:
    """Leave the hash of a secret with the registry; no secret takes it back."""
    data = f.text(secret, "secret", f.MAX_TOKEN, may_be_empty=True)
    commitment = hashlib.sha256(data).hexdigest() if secret else ""
    return f.ENROLL_RECOVERY, msgspec.json.encode({"commitment": commitment})
