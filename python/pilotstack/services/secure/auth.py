"""The authenticated variant of the secure channel: each end proves its node's key
(docs/reference/protocol/services/secure.md#authentication).

::

    0         4              12          28                    92
    +---------+--------------+-----------+---------------------+
    | node id | Unix seconds | nonce     | Ed25519 signature   |
    +---------+--------------+-----------+---------------------+
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pilotstack._core import ed25519_sign, ed25519_verify
from pilotstack.services.secure.codec import SecureError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Credentials", "NonceCache", "Proof", "challenge", "check"]

_NONCE_LEN: Final = 16
_SIGNATURE_LEN: Final = 64
PROOF_LEN: Final = 4 + 8 + _NONCE_LEN + _SIGNATURE_LEN
#: Seconds that a proof's time may be off.
MAX_SKEW: Final = 5
#: Seconds for which nonces are remembered, and how many of them. A proof is too old long before.
REMEMBERED: Final = 3600.0
MAX_NONCES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Proof:
    """What an end sends as its first frame."""

    node_id: int
    #: Unix seconds.
    time: int
    nonce: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The text of the frame."""
        return self.node_id.to_bytes(4) + self.time.to_bytes(8) + self.nonce + self.signature

    @classmethod
    def decode(cls, text: bytes) -> Proof:
        """Reads the text of the frame.

        Raises:
            SecureError: it is no proof.
        """
        if len(text) != PROOF_LEN:
            raise refused("it proves nothing")
        return cls(
            int.from_bytes(text[:4]),
            int.from_bytes(text[4:12]),
            text[12:28],
            text[28:],
        )


def challenge(node_id: int, public: bytes, seconds: int, nonce: bytes) -> bytes:
    """What an end signs: ``public`` is its own X25519 key of this channel."""
    return b"pilot-secure-auth:" + node_id.to_bytes(4) + public + seconds.to_bytes(8) + nonce


class NonceCache:
    """Nonces of proofs that were accepted. When it is full, further ones are refused.

    Args:
        limit: how many are remembered.
    """

    def __init__(self, limit: int = MAX_NONCES) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def add(self, nonce: bytes, now: float) -> bool:
        """Takes note of a nonce. Returns whether it is new and there is room.

        Args:
            now: monotonic seconds.
        """
        while self._seen and next(iter(self._seen.values())) <= now - REMEMBERED:
            self._seen.popitem(last=False)
        if nonce in self._seen or len(self._seen) >= self._limit:
            return False
        self._seen[nonce] = now
        return True


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are, and how peers are recognized.

    Args:
        node_id: our node.
        seed: the 32 secret bytes of our node's Ed25519 key.
        key_of: the Ed25519 key of a node, as from the registry; ``None`` if there is none.
        nonces: proofs that were accepted; share it between the channels of a server.
    """

    node_id: int
    seed: bytes = field(repr=False)
    key_of: Callable[[int], Awaitable[bytes | None]]
    nonces: NonceCache = field(default_factory=NonceCache)

    def prove(self, public: bytes, *, now: float | None = None, nonce: bytes = b"") -> Proof:
        """Our proof for a channel.

        Args:
            public: our X25519 key of the channel.
            now: Unix seconds, if not those of the clock.
            nonce: 16 bytes, if not random ones.
        """
        seconds = int(time.time() if now is None else now)
        nonce = nonce or os.urandom(_NONCE_LEN)
        message = challenge(self.node_id, public, seconds, nonce)
        return Proof(self.node_id, seconds, nonce, ed25519_sign(self.seed, message))


def check(proof: Proof, public: bytes, key: bytes | None, *, now: float) -> None:
    """Checks a peer's proof.

    Args:
        public: the peer's X25519 key of the channel.
        key: the Ed25519 key of the node that it names.
        now: Unix seconds.

    Raises:
        SecureError: it does not prove that the peer is this node.
    """
    skew = abs(int(now) - proof.time)
    if skew > MAX_SKEW:
        raise refused(f"its proof is {skew} s off", hint="compare the clocks of both hosts")
    message = challenge(proof.node_id, public, proof.time, proof.nonce)
    if key is None or not ed25519_verify(key, message, proof.signature):
        raise refused(f"it does not have the key of node {proof.node_id}")


def refused(why: str, hint: str | None = None) -> SecureError:
    """The error for a peer that is not who it should be."""
    return SecureError(f"the peer is not authenticated: {why}", reason="handshake", hint=hint)
