"""The state of a registry: its tables, what it forgets when it stops, and the operator's policy."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pilotstack.registry.model.auth import Verifier
from pilotstack.registry.model.creations import Creations
from pilotstack.registry.model.guesses import Guesses
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.tables import Tables
from pilotstack.registry.model.transient import (
    Beacon,
    Neighbours,
    RecentSignatures,
    Removals,
    Sweep,
)

if TYPE_CHECKING:
    from pilotstack.registry.model.source import Source


class State(Tables):
    """The state that rules read and change."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__()
        self.beacons: dict[int, Beacon] = {}
        self.sweep = Sweep()
        #: Seconds by which the wall clock is ahead of the registry's time.
        self.skew = 0.0
        self.neighbours = Neighbours()
        self.guesses = Guesses()
        #: Number of connections that speak for each node.
        self.speaking: Counter[int] = Counter()
        self.creations = Creations()
        self.removals = Removals()
        self.recent_signatures = RecentSignatures()
        #: Time of the registry's first start.
        self.created = 0
        #: Unknown members of a loaded snapshot, which are written into the next.
        self.unknown: dict[str, object] = {}
        self.unknown_rows: dict[tuple[str, int], dict[str, object]] = {}
        self.policy = policy or Policy()

    @property
    def policy(self) -> Policy:
        """The operator's settings."""
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
        """Forgets what a connection proved, after its end."""
        for node_id in source.proven:
            self.speaking[node_id] -= 1
            if self.speaking[node_id] <= 0:
                del self.speaking[node_id]
                self.removals.take(node_id)
        source.proven.clear()
        source.pending.clear()
