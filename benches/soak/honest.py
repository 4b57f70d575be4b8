"""Honest load: programs dial, transfer, abort, cancel, listen, look up, and are killed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from pilotstack import Driver

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from pilotstack import Stream
    from pilotstack.testing import Node

#: Timeout of one operation under attack, seconds.
PATIENCE = 60.0
_BULK = 4 << 20
#: A program that exits while dialling.
_KILLED = """
import os, sys, anyio
from pilotstack import Driver

async def main():
    async with Driver(sys.argv[1]) as driver, anyio.create_task_group() as tasks:
        await (await driver.dial(sys.argv[2] + ":7")).send(b"x" * 100_000)
        for _ in range(30):
            tasks.start_soon(driver.dial, sys.argv[2] + ":7")
        await anyio.sleep(float(sys.argv[3]))
        os._exit(0)

anyio.run(main)
"""


class Honest:
    """Programs on one daemon that talk to another.

    Args:
        node: their daemon.
        peer: hostname of the node that they dial; it stays up.
        rng: what they do next.
    """

    def __init__(self, node: Node, peer: str, rng: random.Random) -> None:
        self._socket = node.socket
        self._peer = peer
        self._rng = rng
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def run(self) -> None:
        """Works until cancelled."""
        programs: tuple[Callable[[Driver], Awaitable[None]], ...] = (
            self._echo,
            self._bulk,
            self._abort,
            self._cancel,
            self._datagrams,
            self._listen,
            self._ask,
        )
        async with anyio.create_task_group() as tasks:
            for program in programs:
                tasks.start_soon(self._repeat, program)
            tasks.start_soon(self._killed)

    async def _repeat(self, program: Callable[[Driver], Awaitable[None]]) -> None:
        name = program.__name__.strip("_")
        while True:
            async with Driver(self._socket) as driver:
                for _ in range(self._rng.randrange(1, 40)):
                    try:
                        with anyio.fail_after(PATIENCE):
                            await program(driver)
                    except Exception as error:
                        self.failed[f"{name}: {_first(error)!r}"] += 1
                    else:
                        self.done[name] += 1

    async def _exchange(self, driver: Driver, size: int) -> None:
        async with (
            await driver.dial(f"{self._peer}:7") as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(stream.send, b"x" * size)
            left = size
            while left:
                left -= len(await stream.receive())

    async def _echo(self, driver: Driver) -> None:
        await self._exchange(driver, 3000)

    async def _bulk(self, driver: Driver) -> None:
        await self._exchange(driver, _BULK)

    async def _abort(self, driver: Driver) -> None:
        streams: list[Stream] = [await driver.dial(f"{self._peer}:7") for _ in range(20)]
        for stream in streams:
            await stream.send(b"x" * 100_000)
        for stream in streams:
            await driver.abort(stream)
            await stream.aclose()

    async def _cancel(self, driver: Driver) -> None:
        with anyio.move_on_after(self._rng.random() * 0.01):
            await (await driver.dial(f"{self._peer}:7")).aclose()

    async def _datagrams(self, driver: Driver) -> None:
        async with await driver.datagram() as datagrams:
            for _ in range(50):
                await datagrams.send_to(b"x" * 500, f"{self._peer}:9")

    async def _listen(self, driver: Driver) -> None:
        async with await driver.listen() as listener:
            own = (await driver.info()).address
            async with await driver.dial((own, listener.port)), await listener.accept():
                pass

    async def _ask(self, driver: Driver) -> None:
        await driver.info()
        await driver.resolve(self._peer)
        await driver.networks()

    async def _killed(self) -> None:
        while True:
            delay = str(self._rng.random() * 0.05)
            command = [sys.executable, "-c", _KILLED, str(self._socket), self._peer, delay]
            with suppress(OSError):
                await anyio.run_process(command, check=False, stderr=None, env={**os.environ})
            self.done["killed"] += 1


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
