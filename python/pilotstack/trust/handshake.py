"""Port 444 through a driver on the daemon's own socket: one message per stream, no answer.

A stream is closed when its message was taken and reset when it was not, so its sender can tell, and
goes through the registry instead.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from pilotstack import _events, _serving, wellknown
from pilotstack.client import Driver
from pilotstack.errors import PilotError
from pilotstack.trust import messages
from pilotstack.trust.slots import Slot, Slots
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pilotstack.client import Stream
    from pilotstack.trust.messages import Message
    from pilotstack.trust.records import Effects

log = _events.get_logger(__name__)

#: Seconds for a whole message to arrive.
PATIENCE = 10.0
#: Seconds for which a sender leaves the stream open for old receivers.
LINGER = 0.5
#: Streams served at once, of all and of one peer, which needs one at a time.
MAX_STREAMS = 256
MAX_PER_PEER = 4

_LOST = (
    *(TimeoutError, PilotError, OSError, anyio.EndOfStream),
    *(anyio.BrokenResourceError, anyio.ClosedResourceError),
)


class HandshakePort:
    """Sends and takes messages.

    Args:
        judge: gets each message with the node that its tunnel proved; gives what it leads to, or
            ``None`` if it is dropped.
        perform: carries that out.
    """

    def __init__(
        self,
        judge: Callable[[int, Message], Awaitable[Effects | None]],
        perform: Callable[[Effects], Awaitable[None]],
    ) -> None:
        self._judge = judge
        self._perform = perform
        self._driver: Driver | None = None
        self._slots = Slots(MAX_STREAMS, MAX_PER_PEER)
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
        source = stream.remote_address.address.node
        scope = anyio.CancelScope()
        slot = Slot(source, scope.cancel)
        async with stream:
            if not self._slots.enter(slot):
                self.dropped["busy"] += 1
                await self._reset(stream)
                return
            try:
                with scope:
                    effects = await self._take(stream, slot)
                if scope.cancelled_caught:
                    # Another peer has its slot.
                    self.dropped["busy"] += 1
                    effects = None
                if effects is None:
                    await self._reset(stream)
                    return
                await stream.aclose()
                await self._perform(effects)
            except Exception as error:
                # Whatever a message leads to, the next one is taken, and none fills the log.
                _serving.failures.note("handshake", error)
            finally:
                self._slots.leave(slot)

    async def _take(self, stream: Stream, slot: Slot) -> Effects | None:
        message = await self._read(stream)
        if message is None:
            return None
        # It has said what it wants; others do not push it out any more.
        self._slots.hold(slot)
        return await self._judge(slot.peer, message)

    async def _reset(self, stream: Stream) -> None:
        if self._driver is not None:
            with suppress(*_LOST):
                await self._driver.abort(stream)

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
        except _LOST:
            return False
        return True
