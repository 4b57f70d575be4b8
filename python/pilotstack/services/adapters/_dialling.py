"""Whose driver dials for a library: the program's, or one of the adapter's own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio

from pilotstack import sync
from pilotstack.client import Driver
from pilotstack.errors import NotRunning

if TYPE_CHECKING:
    import os

    from pilotstack.client import Stream
    from pilotstack.types import Target


class Dialler:
    """Dials on anyio. A driver of its own is made when it is first needed, and anew after its
    daemon ended.

    Args:
        driver: the program's driver, which is not closed here.
        socket_path: otherwise the daemon to use.
    """

    def __init__(self, driver: Driver | None, socket_path: str | os.PathLike[str] | None) -> None:
        self._driver = driver
        self._is_own = driver is None
        self._path = socket_path
        self._opening: anyio.Lock | None = None

    async def dial(self, target: Target, timeout: float | None = None) -> Stream:
        """Opens a stream; errors as of :meth:`pilotstack.Driver.dial`."""
        driver = await self.driver()
        try:
            return await driver.dial(target, timeout=timeout, no_delay=True)
        except NotRunning:
            if not self._is_own:
                raise
        if self._driver is driver:
            await self.aclose()
        return await (await self.driver()).dial(target, timeout=timeout, no_delay=True)

    async def driver(self) -> Driver:
        """The driver."""
        # Made here: it belongs to the event loop that uses it.
        self._opening = self._opening or anyio.Lock()
        async with self._opening:
            if self._driver is None:
                self._driver = await Driver(self._path).__aenter__()
        return self._driver

    async def aclose(self) -> None:
        """Closes the driver, if it is its own. Streams live on."""
        if self._is_own and self._driver is not None:
            driver, self._driver = self._driver, None
            await driver.aclose()


class ThreadDialler:
    """The same for threads."""

    def __init__(
        self, driver: sync.Driver | None, socket_path: str | os.PathLike[str] | None
    ) -> None:
        self._driver = driver
        self._is_own = driver is None
        self._path = socket_path
        self._opening = threading.Lock()

    def dial(self, target: Target, timeout: float | None = None) -> sync.Stream:
        """Opens a stream; errors as of :meth:`pilotstack.sync.Driver.dial`."""
        driver = self._ready()
        try:
            return driver.dial(target, timeout=timeout, no_delay=True)
        except NotRunning:
            if not self._is_own:
                raise
        with self._opening:
            if self._driver is driver:
                self._driver = None
                driver.close()
        return self._ready().dial(target, timeout=timeout, no_delay=True)

    def _ready(self) -> sync.Driver:
        with self._opening:
            if self._driver is None:
                self._driver = sync.Driver(self._path)
            return self._driver

    def close(self) -> None:
        """Closes the driver, if it is its own. Streams live on."""
        with self._opening:
            if self._is_own and self._driver is not None:
                driver, self._driver = self._driver, None
                driver.close()
