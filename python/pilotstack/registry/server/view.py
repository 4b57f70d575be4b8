"""The read-only view of a registry that HTTP gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack._figures import Durations
    from pilotstack._seats import Seats
    from pilotstack.registry.model.state import State
    from pilotstack.registry.replication.primary import Publisher
    from pilotstack.registry.replication.standby import Standby
    from pilotstack.registry.server.metrics import Metrics
    from pilotstack.registry.server.service import Service
    from pilotstack.registry.storage.term import Term


class View:
    """A registry as monitors see it.

    Args:
        service: what answers requests.
        publisher: what serves standbys.
        seats: the connections of clients.
        standby: what follows the primary, on a standby.
    """

    def __init__(
        self, service: Service, publisher: Publisher, seats: Seats, standby: Standby | None
    ) -> None:
        self._service = service
        self.publisher = publisher
        self._seats = seats
        self.standby = standby

    @property
    def state(self) -> State:
        """The registry's state."""
        return self._service.ledger.state

    def now(self) -> float:
        """The registry's time."""
        return self._service.clock.now()

    @property
    def metrics(self) -> Metrics:
        """Counters of requests and connections."""
        return self._service.metrics

    @property
    def term(self) -> Term:
        """Its cluster and term."""
        return self._service.standing.term

    @property
    def role(self) -> str:
        """``primary``, ``standby``, or ``replaced`` for a primary that was replaced."""
        if self.standby is not None:
            return "standby"
        return "replaced" if self._service.standing.is_replaced else "primary"

    @property
    def is_failing(self) -> bool:
        """Whether the last change could not be stored."""
        return self._service.ledger.is_failing

    @property
    def syncs(self) -> Durations:
        """How long changes waited for the disk."""
        return self._service.ledger.syncs

    @property
    def waiting_changes(self) -> int:
        """Changes that are not durable yet."""
        return self._service.ledger.waiting

    @property
    def connections(self) -> int:
        """Number of connected clients."""
        return self._seats.total

    @property
    def held_polls(self) -> int:
        """Number of held long polls."""
        return self._service.waiters.held
