"""Handshake messages on port 444, through a driver on the daemon's own socket: one per stream, no
answer.

The receiver closes the stream if it accepted the message and resets it otherwise. The sender then
uses the relay of the registry.
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

    from pilotstack.client import Place, Stream
    from pilotstack.trust.messages import TrustMessage
    from pilotstack.trust.records import Effects

log = _events.get_logger(__name__)

#: Timeout for receiving a whole message, seconds.
PATIENCE = 10.0
#: How long a sender leaves the stream open for legacy receivers, seconds.
LINGER = 0.5
#: Streams served at the same time, in total and per peer.
MAX_STREAMS = 256
MAX_PER_PEER = 4

_LOST = (
    *(TimeoutError, PilotError, OSError, anyio.EndOfStream),
    *(anyio.BrokenResourceError, anyio.ClosedResourceError),
)


class HandshakePort:
    """Sends and receives handshake messages.

    Args:
        judge: called with each message and the node authenticated by the tunnel; returns its
            effects, or ``None`` if it is dropped.
        perform: performs the effects.
    """

    def __init__(
        self,
        judge: Callable[[int, TrustMessage], Awaitable[Effects | None]],
        perform: Callable[[Effects], Awaitable[None]],
    ) -> None:
        self._judge = judge
        self._perform = perform
        self._driver: Driver | None = None
        self._slots = Slots(MAX_STREAMS, MAX_PER_PEER)
        #: Streams dropped before they held a message, by reason.
        self.dropped: Counter[str] = Counter()

    async def run(self, place: Place, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves the port until cancelled; starts when it is bound.

        Raises:
            AlreadyExists: the port is in use.
        """
        async with Driver(place) as driver:
            listener = await driver.listen(wellknown.HANDSHAKE_PORT)
            self._driver = driver
            task_status.started()
            try:
                await listener.serve(self._serve)
            except (PilotError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                # The core stopped; the daemon learns that from the core itself.
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
                    # Its slot was given to another peer.
                    self.dropped["busy"] += 1
                    effects = None
                if effects is None:
                    await self._reset(stream)
                    return
                await stream.aclose()
                await self._perform(effects)
            except Exception as error:
                # A failing message must not stop the loop or fill the log.
                _serving.failures.note("handshake", error)
            finally:
                self._slots.leave(slot)

    async def _take(self, stream: Stream, slot: Slot) -> Effects | None:
        message = await self._read(stream)
        if message is None:
            return None
        # The message is complete, so the stream is no longer evicted.
        self._slots.hold(slot)
        return await self._judge(slot.peer, message)

    async def _reset(self, stream: Stream) -> None:
        if self._driver is not None:
            with suppress(*_LOST):
                await self._driver.abort(stream)

    async def _read(self, stream: Stream) -> TrustMessage | None:
        """Reads a whole message, which may arrive in pieces and without FIN."""
        data = b""
        try:
            with anyio.fail_after(PATIENCE):
                while len(data) < messages.MAX_MESSAGE:
                    data += await stream.receive()
                    if not data.lstrip().startswith(b"{"):
                        break
                    if data.rstrip().endswith(b"}"):
                        try:
                            return messages.decode(data)
                        except ValueError:
                            continue
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError, PilotError):
            pass
        self.dropped["malformed"] += 1
        return None

    async def send(self, peer: int, data: bytes, timeout: float) -> bool:
        """Sends one message in one write. Returns whether the peer accepted it."""
        if self._driver is None:
            return False
        target = (Address(0, peer), wellknown.HANDSHAKE_PORT)
        try:
            with anyio.fail_after(timeout):
                async with await self._driver.dial(target, no_delay=True) as stream:
                    await stream.send(data)
                    with anyio.move_on_after(LINGER):
                        await stream.receive()
        except anyio.EndOfStream:
            return True
        except _LOST:
            return False
        return True
