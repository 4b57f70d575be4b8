"""Verbs by the type of their request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from pilotstack.errors import Unavailable
from pilotstack.ipc.layout import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Answer = TypeVar("_Answer", bound=msgspec.Struct)
_Request = TypeVar("_Request", bound=Request[Any])


class Table:
    """Answers each request by the verb for its type."""

    def __init__(self) -> None:
        self._verbs: dict[type, Callable[[object], Awaitable[msgspec.Struct]]] = {}

    def add(
        self, kind: type[_Request], verb: Callable[[_Request], Awaitable[msgspec.Struct]]
    ) -> None:
        """Lets a verb answer requests of this type."""
        self._verbs[kind] = cast("Callable[[object], Awaitable[msgspec.Struct]]", verb)

    async def answer(self, request: Request[_Answer]) -> msgspec.Struct:
        """The answer to a request.

        Raises:
            Unavailable: no verb answers it here.
            PilotError: it is refused.
        """
        verb = self._verbs.get(type(request))
        if verb is None:
            raise Unavailable(f"unknown command: 0x{request.command:02X}")
        return await verb(request)
