"""Signatures that serve once: those of the challenges that are this project's own.

A plain one, over ids, is the same for ever, so it is taken once and remembered. With ``signed_at``
(Unix seconds) and ``signature_at`` over ``<challenge>@<signed_at>#<digest>`` the same can be asked
again, and the signature covers what else the request says: ``digest`` is the SHA-256, in hex, of
the request as JSON with sorted names, without signatures, tokens and what connections add.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry import messages
from pilotstack.registry.auth import Denied
from pilotstack.registry.records import Rotation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pilotstack.registry.call import Call
    from pilotstack.registry.records import Node

#: Seconds by which ``signed_at`` may differ from the registry's wall clock, which heartbeats tell.
WINDOW: Final = 300
#: Plain signatures of one node that are remembered, and of all (about 250 bytes each); when there
#: are more, the time has to be signed.
MAX_PLAIN: Final = 512
MAX_PLAIN_IN_ALL: Final = 1 << 18
#: How a refusal begins that ends with the registry's clock.
NOT_NOW: Final = "signature is not of now: the registry has "
#: Before the digests of these in the table of used signatures.
MARK: Final = "once-"
#: Not covered: signatures, secrets, and what the connection adds of its own.
_UNCOVERED: Final = frozenset(
    {
        *("signature", "signature_at", "admin_token", "token", "network_admin_token"),
        *("cluster", "term", "term_proof"),
    }
)


def challenge_at(challenge: str, message: Mapping[str, Any], at: int) -> str:
    """What ``signature_at`` of a request signs."""
    covered = {name: value for name, value in message.items() if name not in _UNCOVERED}
    digest = hashlib.sha256(msgspec.json.encode(covered, order="sorted")).hexdigest()
    return f"{challenge}@{at}#{digest}"


def authenticate(call: Call, node: Node, challenge: str) -> None:
    """Checks who signed a request, and that it was not sent before.

    Raises:
        Denied: it is not signed, or not now.
    """
    if "signed_at" in call.message:
        _check_time(call, node, challenge)
    call.check(node, challenge)
    _use_once(call, node, challenge)
    call.accept(node)


def _check_time(call: Call, node: Node, challenge: str) -> None:
    at, wall = call.number("signed_at", 48), int(call.now + call.state.skew)
    if abs(at - wall) > WINDOW:
        raise Denied(f"{NOT_NOW}{wall}")
    signature = call.text("signature_at")
    call.state.verifier.verify(
        node.public_key, signature, challenge_at(challenge, call.message, at)
    )
    digest = messages.digest(messages.decode_base64(signature, messages.SIGNATURE_LEN))
    if not call.state.moments.add(digest, call.now + 2 * WINDOW, call.now):
        raise Denied("signature already used: sign a later time")


def _use_once(call: Call, node: Node, challenge: str) -> None:
    """Remembers the plain signature, which stands beside one of the time for older registries."""
    octets = messages.decode_base64(call.text("signature"), messages.SIGNATURE_LEN)
    digest = MARK + messages.digest(octets).hex()
    used = call.state.rotations.of(node.node_id)
    is_timed = "signed_at" in call.message
    if digest in used and not is_timed:
        raise Denied("signature already used: sign the time, too")
    if digest in used:
        return
    is_full = call.state.used_signatures >= MAX_PLAIN_IN_ALL or len(used) >= MAX_PLAIN
    if is_full and not is_timed:
        raise Denied(f"too many signatures of node {node.node_id} without a time")
    if not is_full:
        # Also if the request is refused: it may succeed another day.
        call.keep("rotations", (node.node_id, digest), Rotation(call.at))


class Moments:
    """Signatures of the last minutes, in bounded memory: when it is full, nothing new is taken."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, until: float, now: float) -> bool:
        """Remembers a signature; ``False`` if it is known, or there is no room."""
        for known, end in list(self._until.items())[:2]:
            # They end in the order in which they came.
            if end <= now:
                del self._until[known]
        if digest in self._until or len(self._until) >= self._limit:
            return False
        self._until[digest] = until
        return True
