"""Signature and token checks.

The challenges of existing clients hold ids only, so the same request has the same signature for
ever. SECURITY.md says what that does not protect against; it also allows to verify each signature
only once.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from pilotstack._core import ed25519_verify
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code, Denied

#: Rounds of PBKDF2 over a token. Tokens should be random; this slows down guessing poor ones from a
#: stolen store, and takes less than a millisecond of the event loop.
ROUNDS: Final = 1_000
_SALT_LEN: Final = 16


class Verifier:
    """Verifies signatures and caches those that are valid.

    The cache has two generations: when the younger is full, the older is dropped.

    Args:
        capacity: signatures to cache, about 150 bytes each.
    """

    def __init__(self, capacity: int) -> None:
        self._half = max(capacity // 2, 1)
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def verify(self, public_key: bytes, signature: str, challenge: str) -> None:
        """Checks a signature in base64.

        Raises:
            Denied: it is malformed or wrong.
        """
        text = b"%b\0%b\0%b" % (public_key, signature.encode(), challenge.encode())
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if digest in self._young:
            return
        if digest not in self._old:
            self._check(public_key, signature, challenge)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, set()
        self._young.add(digest)

    @staticmethod
    def _check(public_key: bytes, signature: str, challenge: str) -> None:
        try:
            decoded = values.decode_base64(signature, values.SIGNATURE_LEN)
        except ValueError as error:
            raise Denied(f"invalid signature encoding: {error}", Code.SIGNATURE) from error
        if not ed25519_verify(public_key, challenge.encode(), decoded):
            raise Denied("signature verification failed", Code.SIGNATURE)


def same(given: str, expected: str) -> bool:
    """Compares two secrets in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def hash_token(token: str, salt: bytes) -> str:
    """The hash of a token, for storing.

    Args:
        salt: 16 random bytes.
    """
    digest = hashlib.pbkdf2_hmac("sha256", token.encode(), salt, ROUNDS)
    return f"{salt.hex()}${digest.hex()}"


def matches_token(token: str, stored: str) -> bool:
    """Whether ``stored`` is the hash of ``token``; an empty ``stored`` matches nothing."""
    salt, dollar, _ = stored.partition("$")
    if not dollar or len(salt) != 2 * _SALT_LEN:
        return False
    try:
        return hmac.compare_digest(hash_token(token, bytes.fromhex(salt)), stored)
    except ValueError:
        return False
