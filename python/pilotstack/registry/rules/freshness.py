"""Signatures that serve once: those of the challenges that are this project's own.

A plain one, over ids, is the same for ever, so it is taken once and remembered. With ``signed_at``
(Unix seconds) and ``signature_at`` over ``<challenge>@<signed_at>#<digest>`` the same can be asked
again, and the signature covers what else the request says: ``digest`` is the SHA-256, in hex, of
the request as JSON with sorted names, without signatures, tokens and what connections add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Rotation
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.signing import NOT_NOW, challenge_at

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.rules.call import Call

#: Seconds by which ``signed_at`` may differ from the registry's wall clock, which heartbeats tell.
WINDOW: Final = 300
#: Plain signatures of one node that are remembered, and of all (about 250 bytes each); when there
#: are more, the time has to be signed.
MAX_PLAIN: Final = 512
MAX_PLAIN_IN_ALL: Final = 1 << 18
#: Before the digests of these in the table of used signatures.
MARK: Final = "once-"


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
    digest = values.digest(values.decode_base64(signature, values.SIGNATURE_LEN))
    if not call.state.moments.add(digest, call.now + 2 * WINDOW, call.now):
        raise Denied("signature already used: sign a later time")


def _use_once(call: Call, node: Node, challenge: str) -> None:
    """Remembers the plain signature, which stands beside one of the time for older registries."""
    octets = values.decode_base64(call.text("signature"), values.SIGNATURE_LEN)
    digest = MARK + values.digest(octets).hex()
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
