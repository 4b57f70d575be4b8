"""Requests of drivers to verbs without a socket: from the payload of a frame to the JSON of its
reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from pilotstack.daemon.verbs.control import Control
from pilotstack.daemon.verbs.table import Table

if TYPE_CHECKING:
    from pilotstack.ipc.layout import Request


class Verbs(Protocol):
    """Verbs of one topic."""

    def add_to(self, table: Table) -> None:
        """Lets them answer."""


async def ask(verbs: Verbs, command: int, payload: bytes = b"") -> dict[str, Any]:
    """The answer to the payload of a control frame."""
    table = Table()
    verbs.add_to(table)
    body = await Control(table).answer(command, payload, has_id=True)
    assert body[0] == command + 1
    answer: dict[str, Any] = json.loads(body[1:])
    return answer


async def ask_for(verbs: Verbs, request: Request[Any]) -> dict[str, Any]:
    """As :func:`ask`, for a request as a driver makes it."""
    return await ask(verbs, request.command, request.pack())
