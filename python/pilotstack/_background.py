"""A server in a thread of its own, with an event loop of its own, inside of any program."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Generic, TypeVar

import anyio

from pilotstack import _events
from pilotstack.errors import InternalError, NotRunning, PilotError

T = TypeVar("T")

log = _events.get_logger(__name__)


class Background(ABC, Generic[T]):
    """Something that serves until it is stopped. Any thread may use it; it runs once.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ready: Future[T] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: anyio.Event | None = None
        self._is_wanted = True
        self._process = os.getpid()
        self._lock = threading.Lock()
        # A program that forgets it can still end.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @abstractmethod
    async def _serve(self, stopping: anyio.Event) -> None:
        """Serves until ``stopping`` is set; calls :meth:`_serves` as soon as it does."""

    def _serves(self, what: T) -> None:
        self._ready.set_result(what)

    def start(self) -> T:
        """Starts it, and waits until it serves.

        Raises:
            PilotError, OSError: what stood against that.
            NotRunning: it was stopped meanwhile.
        """
        self._thread.start()
        return self._ready.result()

    def request_stop(self) -> None:
        """Has it end; does not wait for that. Does nothing in a process that was forked off."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._is_wanted = False
            if self._loop is not None and self._stopping is not None:
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> None:
        """Has it end, and waits for that."""
        self.request_stop()
        if self._thread.ident is not None and os.getpid() == self._process:
            self._thread.join()

    def _main(self) -> None:
        problem: BaseException | None = None
        try:
            anyio.run(self._run)
        except BaseException as error:
            problem = error
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
        if problem is not None and not isinstance(problem, PilotError | OSError):
            log.error("defect", exc_info=problem)
            problem = InternalError(f"a defect of ours: {problem!r}")
        if not self._ready.done():
            self._ready.set_exception(problem or NotRunning("it was stopped while it started"))
        elif problem is not None:
            log.error("server_failed", thread=self._thread.name, why=str(problem))

    async def _run(self) -> None:
        stopping = anyio.Event()
        with self._lock:
            if not self._is_wanted:
                return
            self._loop, self._stopping = asyncio.get_running_loop(), stopping
        try:
            await self._serve(stopping)
        finally:
            with self._lock:
                self._loop = None
