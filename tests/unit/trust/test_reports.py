"""Reports to a registry that hangs and fails: the last one about a peer decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pilotstack.errors import ConnectionFailed
from pilotstack.trust.records import ReportTrust, Respond, RevokeTrust
from pilotstack.trust.reports import Report, Reports

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


class Registry:
    """Answers in order, as one connection does; a failure is an answer that does not come."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.fails = False
        #: Called with each report while it is under way.
        self.meanwhile: Callable[[str, int], Any] = lambda *_: anyio.lowlevel.checkpoint()
        self._turn = anyio.Lock()

    async def _take(self, name: str, peer: int) -> None:
        async with self._turn:
            is_lost = self.fails
            await self.meanwhile(name, peer)
            if is_lost:
                raise ConnectionFailed("away")
            self.told.append((name, peer))

    async def report_trust(self, peer: int) -> None:
        await self._take("report", peer)

    async def revoke_trust(self, peer: int) -> None:
        await self._take("revoke", peer)

    async def respond_handshake(self, peer: int, *, accept: bool) -> None:
        del accept
        await self._take("respond", peer)


def reports_to(registry: Registry) -> Reports:
    return Reports(registry)  # type: ignore[arg-type]


@pytest.mark.parametrize("report", [ReportTrust(1), Respond(1, accept=True)])
async def test_a_report_that_fails_after_it_was_contradicted_is_not_retried(report: Report) -> None:
    registry = Registry()
    reports = reports_to(registry)
    registry.fails = True
    async with anyio.create_task_group() as tasks:

        async def revoke(name: str, peer: int) -> None:
            del name, peer
            registry.fails, registry.meanwhile = False, lambda *_: anyio.lowlevel.checkpoint()
            tasks.start_soon(reports.send, RevokeTrust(1))
            await anyio.wait_all_tasks_blocked()

        registry.meanwhile = revoke
        await reports.send(report)
    await reports.retry()
    assert registry.told == [("revoke", 1)]


async def test_a_retry_leaves_out_what_was_contradicted_meanwhile() -> None:
    registry = Registry()
    reports = reports_to(registry)
    registry.fails = True
    for peer in (1, 2):
        await reports.send(ReportTrust(peer))
    registry.fails = False
    async with anyio.create_task_group() as tasks:

        async def revoke(name: str, peer: int) -> None:
            if (name, peer) == ("report", 1):
                tasks.start_soon(reports.send, RevokeTrust(2))
                await anyio.wait_all_tasks_blocked()

        registry.meanwhile = revoke
        await reports.retry()
    assert registry.told == [("report", 1), ("revoke", 2)]
    assert (reports.is_reported(1), reports.is_reported(2)) == (True, False)


async def test_failed_reports_are_retried_with_growing_pauses() -> None:
    registry = Registry()
    reports = reports_to(registry)
    registry.fails = True
    await reports.send(ReportTrust(1))
    await reports.retry()
    registry.fails = False
    await reports.retry()
    assert registry.told == [], "a second passes before the third attempt"
    await reports.send(ReportTrust(1))
    await reports.retry()
    assert registry.told == [("report", 1)]
