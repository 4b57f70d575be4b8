"""Replay protection for handshake messages, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from pilotstack.trust.messages import challenge

if TYPE_CHECKING:
    from pilotstack.trust.messages import TrustMessage

MAX_REPLAYS = 8192
MAX_REPLAYS_PER_PEER = 256


class Replays:
    """Recent messages and the newest timestamp per peer.

    Args:
        lifetime: seconds after which a message is refused for its age.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._seen: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._per_peer: Counter[int] = Counter()
        self._newest: dict[int, int] = {}

    def is_known(self, message: TrustMessage, own: int) -> bool:
        """Whether this message was accepted before."""
        return _key(message, own) in self._seen

    def is_superseded(self, message: TrustMessage) -> bool:
        """Whether a newer message of the sender was accepted."""
        return message.timestamp < self._newest.get(message.node_id, 0)

    def add(self, message: TrustMessage, own: int, now: float) -> None:
        """Records an authenticated message, evicting the oldest at the bound."""
        self.expire(now)
        peer = message.node_id
        if self._per_peer[peer] >= MAX_REPLAYS_PER_PEER:
            self._forget(next(key for key, (_, of) in self._seen.items() if of == peer))
        elif len(self._seen) >= MAX_REPLAYS:
            self._forget(next(iter(self._seen)))
        self._seen[_key(message, own)] = (now + self._lifetime, peer)
        self._per_peer[peer] += 1
        self._newest[peer] = message.timestamp

    def expire(self, now: float) -> None:
        """Drops messages that are refused for their age."""
        while self._seen:
            key, (until, _) = next(iter(self._seen.items()))
            if until > now:
                return
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        _, peer = self._seen.pop(key)
        self._per_peer[peer] -= 1
        if not self._per_peer[peer]:
            del self._per_peer[peer]
            self._newest.pop(peer, None)


def _key(message: TrustMessage, own: int) -> bytes:
    # The signature covers neither type nor timestamp, so both are part of the key.
    parts = (
        message.kind.value.encode(),
        challenge(message.node_id, own),
        message.signature,
        str(message.timestamp).encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).digest()
