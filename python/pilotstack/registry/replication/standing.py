"""What a registry says of itself in everything that it sends, and what it learns from others."""

from __future__ import annotations

import hashlib
import hmac
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.standing import MAX_TERM

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.storage.term import Term

#: Cost of guessing a replication token from a proof: about 50 ms and 16 MiB each.
_SCRYPT: Final[dict[str, Any]] = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}


class Fence:
    """Proves terms among registries that share a replication token. Clients carry proofs from one
    to another, and can make none.

    Args:
        token: the secret; without one nothing is proven.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._proofs: dict[tuple[str, int], str] = {}

    @cached_property
    def _key(self) -> bytes:
        return hashlib.scrypt(self._token.encode(), salt=b"pilot term proof", **_SCRYPT)

    def prove(self, cluster: str, term: int) -> str:
        """The proof that a term has begun; empty for the first, which nobody needs to prove."""
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
        """Whether a term of a cluster has begun."""
        if not (self._token and proof and term < MAX_TERM):
            return False
        return hmac.compare_digest(proof.encode(), self._make(cluster, term).encode())


class Standing:
    """What a registry says of itself in everything that it sends, and what it learns from others.

    Args:
        term: its term.
        token: the replication token.
    """

    def __init__(self, term: Term, token: str = "") -> None:
        self.term = term
        self.fence = Fence(token)
        #: What was last said, and of what; every reply says it again.
        self._said: tuple[object, dict[str, Any]] = (None, {})

    @property
    def is_replaced(self) -> bool:
        """Whether another registry serves in place of this primary."""
        kept = self.term.kept
        return kept.replaced_by > kept.term

    def members(self) -> dict[str, Any]:
        """What every message has, once there is a cluster. It is not to be changed."""
        of, members = self._said
        if of is not self.term.kept:
            members = self._members()
            self._said = (self.term.kept, members)
        return members

    def _members(self) -> dict[str, Any]:
        term = self.term
        if not term.cluster:
            return {}
        members: dict[str, Any] = {"cluster": term.cluster, "term": term.number}
        if proof := self.fence.prove(term.cluster, term.number):
            members["term_proof"] = proof
        if self.is_replaced:
            members["replaced"] = True
        return members

    def is_foreign(self, message: Message) -> bool:
        """Whether a message is for registries of another cluster."""
        if "cluster" not in message:
            return False
        named = values.text(message, "cluster")
        return bool(named and self.term.cluster) and named != self.term.cluster

    def learn(self, message: Message) -> bool:
        """Whether a message proves that this registry was replaced, and it did not know.

        Raises:
            OSError: that cannot be kept.
        """
        if "term_proof" not in message:
            return False
        term = values.number(message, "term")
        own = self.term
        if term <= max(own.number, own.replaced_by) or self.is_foreign(message):
            return False
        if not self.fence.accepts(own.cluster, term, values.text(message, "term_proof")):
            return False
        own.replace(term)
        return True
