"""What HTTP may see of a registry. Nothing here changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack.registry.model.state import State
    from pilotstack.registry.replication.primary import Publisher
    from pilotstack.registry.replication.standby import Standby
    from pilotstack.registry.server.metrics import Metrics
    from pilotstack.registry.server.seats import Places
    from pilotstack.registry.server.service import Service
    from pilotstack.registry.storage.term import Term


class View:
    """A registry as monitors see it.

    Args:
        service: what answers requests.
        publisher: what serves standbys.
        places: the connections of clients.
        standby: what follows the primary, on a standby.
    """

    def __init__(
        self, service: Service, publisher: Publisher, places: Places, standby: Standby | None
    ) -> None:
        self._service = service
        self.publisher = publisher
        self._places = places
        self.standby = standby

    @property
    def state(self) -> State:
        """What the registry knows."""
        return self._service.ledger.state

    @property
    def metrics(self) -> Metrics:
        """What was counted."""
        return self._service.metrics

    @property
    def term(self) -> Term:
        """Its cluster and term."""
        return self._service.standing.term

    @property
    def role(self) -> str:
        """``primary``, ``standby``, or ``replaced`` for a primary whose place another has taken."""
        if self.standby is not None:
            return "standby"
        return "replaced" if self._service.standing.is_replaced else "primary"

    @property
    def is_failing(self) -> bool:
        """Whether the last change could not be stored."""
        return self._service.ledger.is_failing

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return self._places.total

    @property
    def held_polls(self) -> int:
        """Long polls that are held."""
        return self._service.waiters.held
