"""A node of the overlay inside of a program: no daemon beside it, and no socket's path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from pilotstack.client import Driver
from pilotstack.client._wire import PATIENCE
from pilotstack.daemon.embedded import Engine, Settings, config_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from pilotstack.daemon.ready import Ready

__all__ = ["Node", "Settings"]


class Node(Driver):
    """This process as a node of the overlay: a driver whose daemon is a thread of it.

    Enter it with ``async with``; it registers then, and deregisters at the end. Everything that
    takes a driver takes it. It works on asyncio, uvloop and Trio, and also while their loop is
    busy. A child process that is forked off cannot use it.

    Args:
        timeout: seconds for an answer.
        settings: see :class:`Settings`.

    Raises:
        ConnectionFailed: on entry, when the registry does not answer.
        InvalidArgument: on entry, when a setting makes no sense.
        AlreadyExists: on entry, when another process has the identity.
    """

    def __init__(self, *, timeout: float = PATIENCE, **settings: Unpack[Settings]) -> None:
        self._config = config_of(settings)
        self._engine = Engine(self._config)
        super().__init__(self._engine.place, timeout=timeout)
        self._ready: Ready | None = None

    @property
    def ready(self) -> Ready:
        """Address, name, endpoint and other members, as of the start.

        Raises:
            anyio.ClosedResourceError: it has not been entered.
        """
        if self._ready is None:
            raise anyio.ClosedResourceError
        return self._ready

    async def __aenter__(self) -> Self:
        engine = self._engine
        try:
            self._ready = await anyio.to_thread.run_sync(engine.start, abandon_on_cancel=True)
            await super().__aenter__()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            await self._end()

    async def aclose(self) -> None:
        """Ends the node: listeners end, streams break unless both sides have finished."""
        await super().aclose()
        await self._end()

    async def _end(self) -> None:
        """Returns when the thread has ended, which takes a second at most."""
        engine = self._engine
        # Asked at once, also if the task that waits for it is cancelled.
        engine.request_stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(engine.stop)
