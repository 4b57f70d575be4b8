"""Keeps a node registered: at the start, by heartbeats, and again when the registry has lost it,
has given its id to another node, or has an outdated endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events, _serving
from pilotstack.errors import ConnectionFailed, PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.daemon.registrar import Registrar

log = _events.get_logger(__name__)

#: Seconds at the start in which an unreachable registry is tried again.
PATIENCE: Final = 15.0
#: Seconds between these attempts, at first and at most.
_FIRST, _MOST = 0.1, 1.0
#: Seconds between attempts to register again, at first.
_AGAIN: Final = 0.25


class Presence:
    """Keeps one node registered.

    Args:
        registrar: registers it.
        keepalive: seconds between heartbeats.
        answered: called after a heartbeat that the registry answered.
        beaten: called after every heartbeat.
    """

    def __init__(
        self,
        registrar: Registrar,
        keepalive: float,
        answered: Callable[[], Awaitable[None]],
        beaten: Callable[[], None],
    ) -> None:
        self._registrar = registrar
        self._state = registrar.state
        self._keepalive = keepalive
        self._answered = answered
        self._beaten = beaten
        self._wake = anyio.Event()
        self._is_due = False
        #: Consecutive heartbeats that no registry answered.
        self._failures = 0

    @property
    def problem(self) -> str:
        """Why the registration may be outdated; empty if it is not."""
        return f"{self._failures} heartbeats were not answered" if self._failures else ""

    def renew(self) -> None:
        """Registers again soon, because what the registry knows is outdated."""
        self._is_due = True
        self._wake.set()

    async def join(self) -> None:
        """Registers for the first time.

        Raises:
            ConnectionFailed: no registry answers.
            PilotError: it refuses.
        """
        end = anyio.current_time() + PATIENCE
        delay, told = _FIRST, ""
        while True:
            try:
                await self._registrar.enter()
                return
            except ConnectionFailed as error:
                if anyio.current_time() >= end:
                    raise
                if error.message != told:
                    log.warning("registry_unreachable", error=error.message)
                told = error.message
            await anyio.sleep(delay)
            delay = min(1.5 * delay, _MOST)

    @_serving.endless
    async def keep(self) -> None:
        """Keeps the registration until cancelled."""
        while True:
            with anyio.move_on_after(self._pause()):
                await self._wake.wait()
            self._wake = anyio.Event()
            if not self._state.is_registered:
                continue
            if not self._is_due:
                await self._beat()
            if self._is_due:
                await self._register_again()

    def _pause(self) -> float:
        if not self._failures:
            return self._keepalive
        return min(2.0**self._failures, self._keepalive)

    async def _beat(self) -> None:
        try:
            await self._registrar.heartbeat()
            await self._answered()
        except ConnectionFailed as error:
            self._failures = min(self._failures + 1, 16)
            if self._failures == 1:
                log.warning("heartbeat_failed", error=error.message)
        except PilotError as error:
            # The registry was emptied or restored: it does not know the id, or has another key for
            # it.
            log.warning("registration_lost", error=error.message)
            self._is_due = True
        else:
            if self._failures:
                log.info("registry_answers")
            self._failures = 0
        self._beaten()

    async def _register_again(self) -> None:
        delay, told = _AGAIN, ""
        while self._is_due and self._state.is_registered:
            self._is_due = False
            try:
                await self._registrar.register()
            except PilotError as error:
                self._is_due = True
                if error.message != told:
                    log.warning("not_registered", error=error.message)
                told = error.message
                with anyio.move_on_after(delay):
                    await self._wake.wait()
                self._wake = anyio.Event()
                delay = min(2 * delay, self._keepalive)
            else:
                self._failures = 0
                log.info(
                    "registered",
                    node_id=self._state.node_id,
                    endpoint=self._registrar.endpoint(),
                )
