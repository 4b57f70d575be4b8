"""Requests of drivers, from the frame's payload to the body of its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.errors import ConnectionFailed, NotRunning
from pilotstack.ipc import codes, layout, verbs

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.daemon.verbs.table import Table

#: Verbs that are answered without asking anybody.
LOCAL_VERBS: Final = frozenset({codes.INFO, codes.HEALTH})
#: Seconds that drivers wait for an answer unless its verb says otherwise, and how much sooner ours
#: comes: whoever waits is to hear that the registry does not answer, not that the daemon does not.
PATIENCE: Final = 30.0
MARGIN: Final = 5.0


class Control:
    """Answers one daemon's drivers.

    Args:
        table: the verbs.
        is_starting: whether the node has not registered for the first time yet.
    """

    def __init__(self, table: Table, is_starting: Callable[[], bool] = lambda: False) -> None:
        self._table = table
        self._is_starting = is_starting

    async def answer(self, command: int, payload: bytes, *, has_id: bool) -> bytes:
        """The body of the reply frame: the verb's code plus one, and JSON.

        Args:
            has_id: the driver speaks our extension.

        Raises:
            ConnectionFailed: the registry did not answer in time, however often it was asked.
            NotRunning: the node is not registered yet. Programs that wait for the daemon would take
                an answer with an empty address for one that serves.
            PilotError: the request is refused.
        """
        if self._is_starting():
            raise NotRunning(
                "starting: the daemon is not registered yet",
                hint="try again in a moment; if this lasts, its log says why",
            )
        request = verbs.parse(command, payload)
        try:
            with anyio.fail_after((request.patience or PATIENCE) - MARGIN):
                answer = await self._table.answer(request)
        except TimeoutError as error:
            raise ConnectionFailed(
                "the registry did not answer in time", hint="try again, or see the daemon's log"
            ) from error
        head = bytes((command + 1,))
        if command == codes.BROADCAST and not has_id:
            # Existing drivers know this answer without a payload.
            return head
        return head + layout.encode(answer)
