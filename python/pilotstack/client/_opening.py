"""Calls that may be awaited, or entered without ``await``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anyio.abc import AsyncResource

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

T = TypeVar("T", bound=AsyncResource)


class Opening(Coroutine[Any, Any, T], Generic[T]):
    """What ``dial``, ``listen`` and ``datagram`` return: a coroutine that is also an asynchronous
    context manager of its result.

    ``stream = await driver.dial(...)``, ``async with driver.dial(...) as stream`` and ``async with
    await driver.dial(...) as stream`` mean the same.
    """

    __slots__ = ("_call", "_opened")

    def __init__(self, call: Coroutine[Any, Any, T]) -> None:
        self._call = call
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._call.__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._call
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    # As of a coroutine, so that it may be given to a task.

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a coroutine."""
        return self._call.throw(*error)

    def close(self) -> None:
        """As of a coroutine."""
        self._call.close()

    def __getattr__(self, name: str) -> Any:
        # cr_frame, cr_code and others, at which event loops look.
        if not name.startswith("cr_"):
            raise AttributeError(name)
        return getattr(self._call, name)
