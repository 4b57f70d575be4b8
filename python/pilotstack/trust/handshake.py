"""Port 444 through a driver on the daemon's own socket: one message per stream, no answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import structlog

from pilotstack import wellknown
from pilotstack.client import Driver
from pilotstack.errors import PilotError
from pilotstack.trust import messages
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pilotstack.client import Stream
    from pilotstack.trust.messages import Message

log = structlog.get_logger(__name__)

#: Seconds for a whole message to arrive (sheet 6.1).
PATIENCE = 10.0
#: Seconds for which a sender leaves the stream open for old receivers (sheet 6.1).
LINGER = 0.5
#: Streams served at once.
MAX_STREAMS = 256


class HandshakePort:
    """Sends and takes messages.

    Args:
        arrived: gets each message with the node that its tunnel proved.
    """

    def __init__(self, arrived: Callable[[int, Message], Awaitable[None]]) -> None:
        self._arrived = arrived
        self._driver: Driver | None = None
        self._streams = 0
        #: What was dropped before it was a message.
        self.dropped: Counter[str] = Counter()

    async def run(self, socket: Path, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves the port until cancelled; starts when it is bound.

        Raises:
            AlreadyExists: somebody has the port.
        """
        async with Driver(socket) as driver:
            listener = await driver.listen(wellknown.HANDSHAKE_PORT)
            self._driver = driver
            task_status.started()
            try:
                await listener.serve(self._serve)
            except (PilotError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                # The core stopped, which the daemon hears from the core itself.
                log.debug("handshake_port_closed")

    async def _serve(self, stream: Stream) -> None:
        async with stream:
            if self._streams >= MAX_STREAMS:
                self.dropped["busy"] += 1
                return
            self._streams += 1
            try:
                message = await self._read(stream)
            finally:
                self._streams -= 1
        if message is None:
            return
        source = stream.remote_address.address.node
        try:
            await self._arrived(source, message)
        except Exception:
            # Whatever a message leads to, the next one is taken.
            log.exception("handshake_failed", peer=source)

    async def _read(self, stream: Stream) -> Message | None:
        """A whole message: it may come in pieces, and the sender may not finish."""
        octets = b""
        try:
            with anyio.fail_after(PATIENCE):
                while len(octets) < messages.MAX_MESSAGE:
                    octets += await stream.receive()
                    if not octets.lstrip().startswith(b"{"):
                        break
                    if octets.rstrip().endswith(b"}"):
                        try:
                            return messages.decode(octets)
                        except ValueError:
                            continue
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError, PilotError):
            pass
        self.dropped["malformed"] += 1
        return None

    async def send(self, peer: int, octets: bytes, timeout: float) -> bool:
        """Sends one message in one write; whether the peer took it."""
        if self._driver is None:
            return False
        target = (Address(0, peer), wellknown.HANDSHAKE_PORT)
        try:
            with anyio.fail_after(timeout):
                async with await self._driver.dial(target, no_delay=True) as stream:
                    await stream.send(octets)
                    with anyio.move_on_after(LINGER):
                        await stream.receive()
        except anyio.EndOfStream:
            return True
        except (
            *(TimeoutError, PilotError, OSError),
            *(anyio.BrokenResourceError, anyio.ClosedResourceError),
        ):
            return False
        return True
