"""Handshake sub-commands of the daemon's socket: payloads and readers, for both drivers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pilotstack.client import _frames as f
from pilotstack.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST = b"\x01"
APPROVE = b"\x02"
REJECT = b"\x03"
PENDING = b"\x04"
TRUSTED = b"\x05"
REVOKE = b"\x06"
WAIT = b"\x07"
#: Seconds that the daemon waits at most.
MAX_WAIT = 30.0
#: Seconds that an answer to a request, or to a wait, may take.
PATIENCE = 60.0
#: Bytes of a justification or reason.
MAX_TEXT = 1024


def of(verb: bytes, node: int, text: str = "") -> bytes:
    """A payload about a node."""
    if node == 0:
        raise InvalidArgument("no such node: 0")
    return verb + f.u32(node, "node") + f.text(text, "text", MAX_TEXT, may_be_empty=True)


def wait(node: int, seconds: float) -> bytes:
    """A payload that waits for trust."""
    return of(WAIT, node) + f.u32(int(_duration(seconds) * 1000))


def _duration(seconds: float) -> float:
    if seconds in (0, math.inf):
        return min(seconds, MAX_WAIT)
    return min(f.seconds(seconds), MAX_WAIT)


def found(row: Mapping[str, Any], node: int) -> None:
    """Raises if the daemon had no such request. Older daemons do not tell."""
    if row.get("found") is False:
        raise NotFound(f"no request of node {node} waits", hint="list them with: pilotctl pending")
