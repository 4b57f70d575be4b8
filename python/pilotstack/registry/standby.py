"""The standby's side of replication: a copy that follows a primary, whatever becomes of either.

What goes wrong on the way (a gap, a foreign epoch, octets that make no sense) leads to one thing:
the connection is dropped and the next one says what we have, or asks for everything.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from pilotstack.errors import PilotError
from pilotstack.registry import messages, snapshot
from pilotstack.registry.connection import open_stream
from pilotstack.registry.state import State

if TYPE_CHECKING:
    from pilotstack.registry.ledger import Ledger
    from pilotstack.registry.messages import Message
    from pilotstack.registry.term import Term
    from pilotstack.registry.tls import Trust

log = structlog.get_logger(__name__)

#: Seconds for a connection to the primary, and without a sign of life from it (sheet 4.4).
CONNECT: Final = 10.0
SILENCE: Final = 45.0
#: Seconds between attempts, at first and at most.
RETRY: Final = (0.1, 3.0)
#: Octets of a frame on this connection (sheet 4.4).
FRAME: Final = 64 << 20
#: Octets of a snapshot.
SNAPSHOT: Final = 2 << 30
_READ: Final = 1 << 18


class Follower(Protocol):
    """Keeps a ledger like another registry's."""

    async def run(self) -> None:
        """Follows until cancelled; outages are waited out."""


class _Resync(Exception):
    """What came cannot be used; everything is needed."""


class Standby:
    """Follows a primary; a :class:`Follower`.

    Args:
        ledger: the copy.
        address: host and port of the primary.
        token: what the primary wants to see.
        trust: how it is recognized over TLS.
        term: where the primary's term is remembered.
    """

    def __init__(
        self,
        ledger: Ledger,
        address: tuple[str, int],
        *,
        token: str,
        trust: Trust | None,
        term: Term,
    ) -> None:
        self._ledger = ledger
        self._address = address
        self._token = token
        self._trust = trust
        self._term = term
        self._epoch = ""
        self._seq = 0
        self._parts: list[str] = []
        self._size = 0
        #: The primary's connection is up, and we have what it has.
        self.is_current = False

    @property
    def seq(self) -> int:
        """The last delta that we have."""
        return self._seq

    async def run(self) -> None:
        """Follows until cancelled."""
        delay = RETRY[0]
        while True:
            try:
                await self._follow()
            except (_Resync, messages.ProtocolError, ValueError) as error:
                log.warning("replication_resync", reason=str(error))
                self._epoch = ""
            except PilotError as error:
                log.error("replication_refused", error=str(error))
                delay = RETRY[1]
            except (TimeoutError, OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                log.warning("primary_lost", reason=str(error) or type(error).__name__)
            if self.is_current:
                self.is_current = False
                delay = RETRY[0]
            await anyio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, RETRY[1])

    async def _follow(self) -> None:
        with anyio.fail_after(CONNECT):
            stream = await open_stream(*self._address, self._trust)
        try:
            request: dict[str, Any] = {"type": "subscribe_replication", "deltas": 1}
            if self._token:
                request["token"] = self._token
            if self._epoch:
                request |= {"epoch": self._epoch, "seq": self._seq}
            with anyio.fail_after(CONNECT):
                await stream.send(messages.encode(request))
            await self._take_all(stream)
        finally:
            self._parts, self._size = [], 0
            await anyio.aclose_forcefully(stream)

    async def _take_all(self, stream: anyio.abc.ByteStream) -> None:
        framer = messages.Framer(FRAME)
        while True:
            while (body := framer.next_body()) is not None:
                await self._take(messages.decode(body))
            with anyio.fail_after(SILENCE):
                framer.feed(await stream.receive(_READ))

    async def _take(self, message: Message) -> None:
        match messages.text(message, "type"):
            case "replication_snapshot":
                await self._adopt(message.get("snapshot"), epoch="", seq=0)
            case "replication_snapshot_part":
                self._take_part(messages.text(message, "text"))
            case "replication_snapshot_end":
                text, self._parts, self._size = "".join(self._parts), [], 0
                self._check_term(messages.number(message, "term"))
                rows = await anyio.to_thread.run_sync(snapshot.decode, text.encode())
                await self._adopt(rows, *_position(message))
            case "replication_delta" if "epoch" in message:
                await self._take_delta(message)
            case "heartbeat" if "epoch" in message:
                self._check_position(*_position(message))
            case "error":
                raise PilotError(f"the primary refuses: {messages.text(message, 'error')}")

    def _take_part(self, text: str) -> None:
        self._size += len(text)
        if self._size > SNAPSHOT:
            raise _Resync("the snapshot has no end")
        self._parts.append(text)

    def _check_term(self, term: int) -> None:
        """A primary of the past, that came back after another took its place, is not followed."""
        if term < self._term.number:
            raise PilotError(
                f"the primary at {self._address[0]}:{self._address[1]} has term {term}, and this "
                f"registry has seen {self._term.number}: it has been replaced"
            )
        self._term.follow(term)

    async def _adopt(self, rows: object, epoch: str, seq: int) -> None:
        if not isinstance(rows, dict):
            raise _Resync("a snapshot that is no object")
        state = await anyio.to_thread.run_sync(State.load, rows, time.time())
        await self._ledger.adopt(state)
        self._epoch, self._seq = epoch, seq
        self._mark_current()

    async def _take_delta(self, message: Message) -> None:
        epoch, seq = _position(message)
        self._check_position(epoch, seq - 1)
        rows = message.get("changes")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _Resync("a delta without changes")
        await self._ledger.replay(rows, time.time())
        self._seq = seq
        self._mark_current()

    def _check_position(self, epoch: str, seq: int) -> None:
        if epoch != self._epoch:
            raise _Resync("another epoch")
        if seq != self._seq:
            raise _Resync(f"a gap: {self._seq} is the last that came, and {seq} went before")
        self._mark_current()

    def _mark_current(self) -> None:
        if not self.is_current:
            self.is_current = True
            log.info("replication_current", seq=self._seq)


def _position(message: Message) -> tuple[str, int]:
    return messages.text(message, "epoch"), messages.number(message, "seq", 63)
