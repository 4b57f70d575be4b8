"""Cluster and term in messages: what a registry says of itself, and what it learns from others."""

from __future__ import annotations

import hashlib
import hmac
from functools import cached_property
from typing import TYPE_CHECKING

from pilotstack.registry.protocol import framing
from pilotstack.registry.protocol.standing import MAX_TERM

if TYPE_CHECKING:
    from pilotstack.registry.storage.term import Term

#: Parameters of scrypt: guessing a replication token from a proof costs 50 ms and 16 MiB per try.
_SCRYPT_N, _SCRYPT_R, _KEY_LEN = 1 << 14, 8, 32


class Fence:
    """Proofs of terms among registries that share a replication token. Clients carry proofs between
    registries but cannot make any.

    Args:
        token: the secret; without one nothing can be proven.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._proofs: dict[tuple[str, int], str] = {}

    @cached_property
    def _key(self) -> bytes:
        return hashlib.scrypt(
            self._token.encode(),
            salt=b"pilot term proof",
            n=_SCRYPT_N,
            r=_SCRYPT_R,
            p=1,
            dklen=_KEY_LEN,
        )

    def prove(self, cluster: str, term: int) -> str:
        """The proof of a term; empty for the first, which needs none."""
        if not self._token or not term:
            return ""
        proof = self._proofs.get((cluster, term))
        if proof is None:
            proof = self._proofs[cluster, term] = self._make(cluster, term)
        return proof

    def _make(self, cluster: str, term: int) -> str:
        text = f"term:{cluster}:{term}".encode()
        return hmac.digest(self._key, text, "sha256").hex()

    def accepts(self, cluster: str, term: int, proof: str) -> bool:
        """Whether a proof of a term is valid."""
        if not (self._token and proof and term < MAX_TERM):
            return False
        return hmac.compare_digest(proof.encode(), self._make(cluster, term).encode())


class Standing:
    """A registry's own cluster and term in messages, and what it learns from others'.

    Args:
        term: its cluster and term.
        token: the replication token.
    """

    def __init__(self, term: Term, token: str = "") -> None:
        self.term = term
        self.fence = Fence(token)
        self._members: dict[str, str | int] = {}
        self._stamp = b""
        #: The record of the term that both were made from.
        self._made_of: object = None

    @property
    def is_replaced(self) -> bool:
        """Whether another registry has replaced this primary."""
        kept = self.term.kept
        return kept.replaced_by > kept.term

    @property
    def members(self) -> dict[str, str | int]:
        """Members of every message, once there is a cluster. Must not be modified."""
        self._refresh()
        return self._members

    @property
    def stamp(self) -> bytes:
        """The same, encoded once for all replies."""
        self._refresh()
        return self._stamp

    def _refresh(self) -> None:
        if self._made_of is not self.term.kept:
            self._members = self._make()
            self._stamp = framing.stamp_of(self._members)
            self._made_of = self.term.kept

    def _make(self) -> dict[str, str | int]:
        term = self.term
        if not term.cluster:
            return {}
        members: dict[str, str | int] = {"cluster": term.cluster, "term": term.number}
        if proof := self.fence.prove(term.cluster, term.number):
            members["term_proof"] = proof
        if self.is_replaced:
            members["replaced"] = True
        return members

    def is_foreign(self, cluster: str) -> bool:
        """Whether a cluster named in a message is another than ours."""
        return bool(cluster and self.term.cluster) and cluster != self.term.cluster

    def learn(self, cluster: str, term: int, proof: str) -> bool:
        """Whether a message proves for the first time that this registry was replaced.

        Raises:
            OSError: that cannot be written.
        """
        own = self.term
        if not proof or term <= max(own.number, own.replaced_by) or self.is_foreign(cluster):
            return False
        if not self.fence.accepts(own.cluster, term, proof):
            return False
        own.replace(term)
        return True
