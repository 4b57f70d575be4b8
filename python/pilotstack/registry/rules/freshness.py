"""Signatures that serve once, for the challenges that are this project's own.

A plain signature, over ids, is the same for ever, so it is accepted once and remembered. A request
with ``signed_at`` carries a second signature, ``signature_at``, over the time and everything else
the request says; see :class:`~pilotstack.registry.protocol.requests.base.Timed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack.registry.model.rows import Rotation
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.base import NOT_NOW

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.protocol.requests.base import Reply, Timed
    from pilotstack.registry.rules.call import Call

#: Seconds by which ``signed_at`` may differ from the registry's wall clock, which heartbeats tell.
WINDOW: Final = 300
#: Plain signatures remembered per node and in total (about 250 bytes each). Beyond that, requests
#: need a time.
MAX_PLAIN: Final = 512
MAX_PLAIN_IN_ALL: Final = 1 << 18
#: Prefix of their digests in the table of used signatures.
MARK: Final = "once-"


def authenticate(call: Call[Timed[Reply]], node: Node) -> None:
    """Checks that a node signed a request that was not sent before.

    Raises:
        Denied: it is not signed, not now, or was sent before.
    """
    if call.request.signed_at is not UNSET:
        _check_time(call, node, call.request.signed_at)
    call.check(node)
    _use_once(call, node)
    call.accept(node)


def _check_time(call: Call[Timed[Reply]], node: Node, at: int) -> None:
    wall = int(call.now + call.state.skew)
    if abs(at - wall) > WINDOW:
        raise Denied(f"{NOT_NOW}{wall}", Code.SIGNATURE_TIME)
    signature = call.request.signature_at
    call.state.verifier.verify(node.public_key, signature, call.request.challenge_at())
    digest = values.digest(values.decode_base64(signature, values.SIGNATURE_LEN))
    if not call.state.recent_signatures.add(digest, call.now + 2 * WINDOW, call.now):
        raise Denied("signature already used: sign a later time", Code.REPLAYED)


def _use_once(call: Call[Timed[Reply]], node: Node) -> None:
    """Remembers the plain signature, which a request with a time carries for older registries."""
    request = call.request
    signature = values.decode_base64(request.signature, values.SIGNATURE_LEN)
    digest = MARK + values.digest(signature).hex()
    used = call.state.rotations.of(node.node_id)
    is_timed = request.signed_at is not UNSET
    if digest in used and not is_timed:
        raise Denied("signature already used: sign the time, too", Code.REPLAYED)
    if digest in used:
        return
    is_full = call.state.used_signatures >= MAX_PLAIN_IN_ALL or len(used) >= MAX_PLAIN
    if is_full and not is_timed:
        text = f"too many signatures of node {node.node_id} without a time"
        raise Denied(text, Code.SIGNATURE)
    if not is_full:
        # Also if the request is refused: it might succeed later.
        call.keep("rotations", (node.node_id, digest), Rotation(call.at))
