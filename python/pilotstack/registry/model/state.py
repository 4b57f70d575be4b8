"""All that the registry knows: the tables of :mod:`~pilotstack.registry.model.tables`, what it
forgets when it stops, and the operator's policy."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pilotstack.registry.model.auth import Verifier
from pilotstack.registry.model.creations import Creations
from pilotstack.registry.model.guesses import Guesses
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.tables import Tables
from pilotstack.registry.model.transient import Beacon, Moments, Neighbours, Sweep

if TYPE_CHECKING:
    from pilotstack.registry.model.source import Source


class State(Tables):
    """All that the registry knows, with the operator's policy."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__()
        self.beacons: dict[int, Beacon] = {}
        self.sweep = Sweep()
        #: Seconds by which the wall clock is ahead of the registry's own time.
        self.skew = 0.0
        self.neighbours = Neighbours()
        self.guesses = Guesses()
        #: Connections that speak for a node.
        self.speaking: Counter[int] = Counter()
        self.creations = Creations()
        self.moments = Moments()
        #: When the registry was first started.
        self.created = 0
        #: Members of a loaded snapshot that mean nothing to us, and go back into the next.
        self.unknown: dict[str, Any] = {}
        self.unknown_rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.policy = policy or Policy()

    @property
    def policy(self) -> Policy:
        """What the operator decided."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self.verifier = Verifier(policy.verified_signatures)

    def is_live(self, node_id: int) -> bool:
        """Whether a node is registered."""
        node = self.nodes.get(node_id)
        return node is not None and not node.gone_at

    def left(self, source: Source) -> None:
        """A connection ended: it speaks for nobody any more."""
        for node_id in source.proven:
            self.speaking[node_id] -= 1
            if self.speaking[node_id] <= 0:
                del self.speaking[node_id]
        source.proven.clear()
        source.pending.clear()
