"""Reports of our consents and answers to the registry. One that fails is retried until a later one
about the same peer contradicts it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack import _events
from pilotstack.errors import ConnectionFailed, NotFound, PilotError
from pilotstack.trust.records import ReportTrust, Respond, RevokeTrust

if TYPE_CHECKING:
    from pilotstack.registry.client import RegistryClient

log = _events.get_logger(__name__)

#: Longest interval between attempts to report a peer, seconds.
MAX_RETRY: Final = 600.0

Report = Respond | ReportTrust | RevokeTrust


@dataclass(frozen=True, slots=True)
class _Pending:
    """A report that failed, its due time and the next delay."""

    report: Report
    due: float
    delay: float


class Reports:
    """The reports of one node.

    Args:
        registry: the registered client.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        #: Reports to be retried, by type and peer.
        self._pending: dict[tuple[type[Report], int], _Pending] = {}
        #: The report about each peer that was sent last and is not answered yet.
        self._latest: dict[int, Report] = {}
        #: Peers whose trust was reported since the last registration.
        self._reported: set[int] = set()

    def is_reported(self, peer: int) -> bool:
        """Whether our trust in a peer was reported since the last registration."""
        return peer in self._reported

    def registered(self) -> None:
        """After a registration: the registry may have forgotten what was reported."""
        self._reported.clear()

    async def retry(self) -> None:
        """Sends the reports that are due again."""
        now = time.monotonic()
        for key, row in list(self._pending.items()):
            # One that was overtaken meanwhile must not be sent any more.
            if row.due <= now and self._pending.get(key) is row:
                await self.send(row.report, row.delay)

    async def send(self, report: Report, delay: float = 0.0) -> None:
        """Sends a report, which replaces those about the peer that contradict it.

        Args:
            delay: seconds to the next attempt if this one fails.
        """
        for kind in (*_contradicted_by(report), type(report)):
            self._pending.pop((kind, report.peer), None)
        self._latest[report.peer] = report
        try:
            await self._tell(report)
        except (ConnectionFailed, NotFound) as error:
            # The registry, or the peer, is offline; retry later.
            log.debug("registry_untold", node=report.peer, error=str(error))
            self._keep(report, delay)
        except PilotError as error:
            # Refused by the registry: do not retry.
            log.debug("registry_refused", node=report.peer, error=str(error))
        finally:
            if self._latest.get(report.peer) is report:
                del self._latest[report.peer]

    def _keep(self, report: Report, delay: float) -> None:
        """Has a report sent again, unless one that contradicts it was sent meanwhile."""
        latest = self._latest.get(report.peer, report)
        if not isinstance(report, _contradicted_by(latest)):
            due = time.monotonic() + delay
            later = _Pending(report, due, min(2 * delay + 1, MAX_RETRY))
            self._pending[type(report), report.peer] = later

    async def _tell(self, report: Report) -> None:
        match report:
            case Respond(peer, accept):
                await self._registry.respond_handshake(peer, accept=accept)
            case ReportTrust(peer):
                await self._registry.report_trust(peer)
                self._reported.add(peer)
            case RevokeTrust(peer):
                await self._registry.revoke_trust(peer)
                self._reported.discard(peer)


def _contradicted_by(report: Report) -> tuple[type[Report], ...]:
    """The types of reports about the same peer that this one replaces."""
    return (Respond, ReportTrust) if isinstance(report, RevokeTrust) else (RevokeTrust,)
