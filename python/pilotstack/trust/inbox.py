"""Reads the inbox at the registry: by long polls where the registry holds them, else by polling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from pilotstack import _events, _serving
from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import RegistryClient
    from pilotstack.registry.client.trust import Inbox
    from pilotstack.trust.service import TrustService

log = _events.get_logger(__name__)

#: How long the registry is asked to hold a poll, seconds.
WAIT = 25
#: Polling interval with a registry that holds no polls, and after a request of ours, seconds.
INTERVAL = 30.0
BURST_INTERVAL = 2.0
BURST = 120.0
#: How long an answer is reused for further refreshes, seconds.
FLOOR = 2.0
#: Consecutive empty wake-ups after which polling is slowed down.
MAX_IDLE = 3
#: Longest pause after failures, seconds.
MAX_PAUSE = 30.0


class InboxReader:
    """Reads one daemon's inbox on a connection of its own.

    Args:
        registry: a client used only for polls, because it blocks most of the time.
        service: receives the items.
    """

    def __init__(self, registry: RegistryClient, service: TrustService) -> None:
        self._registry = registry
        self._service = service
        self._asking = anyio.Lock()
        self._nudged = anyio.Event()
        self._burst_until = float("-inf")
        self._polled_at = float("-inf")
        #: Whether the registry holds our polls, so that items arrive at once.
        self.is_pushed = False
        #: Called when this node is no member of a network any more.
        self.on_removed: Callable[[], Awaitable[None]] = _nothing
        #: Relayed items received, by way of delivery.
        self.taken = {"pushed": 0, "polled": 0}

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._registry.aclose()

    def set_node(self, node_id: int) -> None:
        """Sets the node whose inbox is read."""
        self._registry.node_id = node_id
        self.nudge()

    def expect(self) -> None:
        """Polls frequently for a while, because a request of ours awaits an answer."""
        self._burst_until = anyio.current_time() + BURST
        self.nudge()

    def nudge(self) -> None:
        """Wakes a paused poll, because an item may be pending."""
        self._nudged.set()

    async def refresh(self) -> None:
        """Reads pending items now. An unreachable registry is not an error."""
        if self.is_pushed or anyio.current_time() - self._polled_at < FLOOR:
            return
        try:
            await self._take(await self._ask(0))
        except PilotError as error:
            log.debug("inbox_unreachable", error=str(error))

    @_serving.endless
    async def run(self) -> None:
        """Reads until cancelled."""
        failures = idle = 0
        while True:
            begin = anyio.current_time()
            try:
                # The first poll is answered at once and says whether the registry holds polls.
                wait = WAIT if self.is_pushed else 0
                inbox = await self._ask(wait)
                self.is_pushed = inbox.is_held
                failures = 0
                await self._take(inbox)
            except PilotError as error:
                self.is_pushed = False
                failures += 1
                log.debug("inbox_unreachable", error=str(error))
                await self._pause(min(2.0 ** (failures - 2), MAX_PAUSE))
                continue
            if not self.is_pushed:
                await self._service.compare()
                is_burst = anyio.current_time() < self._burst_until
                await self._pause(BURST_INTERVAL if is_burst else INTERVAL)
                continue
            if not (wait and is_empty(inbox)) or anyio.current_time() - begin > WAIT - 1:
                idle = 0
                continue
            # An empty wake-up: a pair was completed without an answer to us. Repeated ones are
            # rate-limited.
            await self._service.catch_up()
            idle += 1
            if idle > MAX_IDLE:
                await self._pause(FLOOR)

    async def _pause(self, seconds: float) -> None:
        self._nudged = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._nudged.wait()

    async def _ask(self, wait: int) -> Inbox:
        async with self._asking:
            inbox = await self._registry.poll_handshakes(wait=wait)
        self._polled_at = anyio.current_time()
        return inbox

    async def _take(self, inbox: Inbox) -> None:
        self.taken["pushed" if inbox.is_held else "polled"] += len(inbox.requests + inbox.responses)
        await self._take_removals(inbox)
        # A request after a revocation is a new one.
        for answer in inbox.responses:
            if answer.revoked:
                await self._service.relayed_revocation(answer.peer, answer.timestamp)
        for request in inbox.requests:
            await self._service.relayed_request(request.peer, request.justification)
        # Of several answers the last one counts.
        answers = {answer.peer: answer for answer in inbox.responses if not answer.revoked}
        for answer in answers.values():
            await self._service.relayed_response(answer.peer, answer.accept, answer.timestamp)

    async def _take_removals(self, inbox: Inbox) -> None:
        own = self._registry.node_id
        if any(node == own for _, node in inbox.removals):
            await self.on_removed()
        for network, node in inbox.removals:
            if node != own:
                await self._service.removed(node, is_banned=not network)


async def _nothing() -> None:
    """Nobody is told."""


def is_empty(inbox: Inbox) -> bool:
    """Whether the inbox has no items."""
    return not (inbox.requests or inbox.responses or inbox.removals)
