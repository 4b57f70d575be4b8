"""The standby's side of replication: a copy that follows a primary.

After any error (a gap, a foreign epoch, malformed data) the connection is dropped; the next one
says what we have, or asks for everything. The copy is replaced only by a state that continues it:
not by that of another cluster, an earlier term, an empty registry or one that has lost ids. Rows
that may exist nowhere else are kept in a file.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.abc
import anyio.to_thread
from msgspec import UNSET

from pilotstack import _events, _serving
from pilotstack.errors import PilotError
from pilotstack.registry.model import validation
from pilotstack.registry.protocol import framing, lenient
from pilotstack.registry.protocol.requests.base import message_of
from pilotstack.registry.protocol.requests.replication import Frame, SubscribeReplication
from pilotstack.registry.protocol.standing import MAX_TERM
from pilotstack.registry.protocol.tls import open_stream
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.clock import Clock

if TYPE_CHECKING:
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.tls import TlsTrust
    from pilotstack.registry.replication.standing import Standing
    from pilotstack.registry.storage.ledger import Ledger

log = _events.get_logger(__name__)

#: Seconds to connect to the primary, and of silence after which it counts as lost.
CONNECT: Final = 10.0
SILENCE: Final = 45.0
#: Seconds between attempts, at first and at most.
RETRY: Final = (0.1, 3.0)
#: Bytes of a frame on this connection.
FRAME: Final = 64 << 20
#: Bytes of a snapshot.
SNAPSHOT: Final = 2 << 30
_READ: Final = 1 << 18
#: Characters of a cluster's name.
_CLUSTER: Final = 64


class Follower(Protocol):
    """Keeps a ledger like another registry's."""

    async def run(self) -> None:
        """Follows until cancelled; reconnects after failures."""


class _Resync(Exception):
    """The stream is unusable; the whole state is needed."""


class _Refused(PilotError):
    """The primary must not be followed, or refuses us."""


class Standby:
    """Follows a primary; a :class:`Follower`.

    Args:
        ledger: the copy.
        address: host and port of the primary.
        token: the replication token.
        trust: how the primary is authenticated over TLS.
        standing: cluster and term of the copy, with their proof.
        clock: set to the primary's time.
    """

    def __init__(
        self,
        ledger: Ledger,
        address: tuple[str, int],
        *,
        token: str,
        trust: TlsTrust | None,
        standing: Standing,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._ledger = ledger
        self._address = address
        self._token = token
        self._trust = trust
        self._standing = standing
        self._term = standing.term
        self._epoch = ""
        self._seq = 0
        self._parts: list[str] = []
        self._size = 0
        #: Connected to the primary and up to date.
        self.is_current = False
        #: Why the primary is not followed; empty if it is, or is only unreachable.
        self.problem = ""

    @property
    def seq(self) -> int:
        """Number of the last delta that we have."""
        return self._seq

    async def run(self) -> None:
        """Follows until cancelled."""
        delay = RETRY[0]
        while True:
            try:
                await self._follow()
            except (_Resync, framing.ProtocolError) as error:
                self._resync(error)
                delay = RETRY[1]
            except PilotError as error:
                self._tell(str(error))
                delay = RETRY[1]
            except (TimeoutError, OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                log.warning("primary_lost", reason=str(error) or type(error).__name__)
            except ValueError as error:
                self._resync(error)
                delay = RETRY[1]
            except Exception as error:
                # Nothing that a primary sends may stop its standby.
                _serving.failures.note("replication", error)
                self._epoch = ""
                delay = RETRY[1]
            if self.is_current:
                self.is_current = False
                delay = RETRY[0]
            await anyio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(2 * delay, RETRY[1])

    def _resync(self, error: Exception) -> None:
        log.warning("replication_resync", reason=f"{error!s:.500}")
        self._epoch = ""

    def _tell(self, problem: str) -> None:
        """Logs once why nothing is copied."""
        if problem != self.problem:
            self.problem = problem
            log.error("replication_refused", error=problem)

    async def _follow(self) -> None:
        with anyio.fail_after(CONNECT):
            stream = await open_stream(*self._address, self._trust)
        try:
            subscribe = SubscribeReplication(
                token=self._token,
                deltas=1,
                epoch=self._epoch,
                seq=self._seq if self._epoch else 0,
            )
            request = message_of(subscribe) | self._standing.members
            with anyio.fail_after(CONNECT):
                await stream.send(framing.encode(request))
            await self._take_all(stream)
        finally:
            self._parts, self._size = [], 0
            await anyio.aclose_forcefully(stream)

    async def _take_all(self, stream: anyio.abc.ByteStream) -> None:
        framer = framing.Framer(FRAME)
        while True:
            while (body := framer.next_body()) is not None:
                await self._take(lenient.convert(framing.decode(body), Frame))
            with anyio.fail_after(SILENCE):
                framer.feed(await stream.receive(_READ))

    async def _take(self, frame: Frame) -> None:
        match frame.type:
            case "replication_snapshot":
                self._check_standing(frame)
                await self._adopt(frame.snapshot, frame, epoch="", seq=0)
            case "replication_snapshot_part":
                self._take_part(frame.text)
            case "replication_snapshot_end":
                text, self._parts, self._size = "".join(self._parts), [], 0
                self._check_standing(frame)
                rows = await anyio.to_thread.run_sync(snapshot.decode, text.encode())
                await self._adopt(rows, frame, epoch=frame.epoch or "", seq=frame.seq)
                self._clock.follow(frame.time)
            case "replication_delta" if frame.epoch is not UNSET:
                self._check_standing(frame)
                await self._take_delta(frame, frame.epoch)
            case "heartbeat" if frame.epoch is not UNSET:
                self._check_standing(frame)
                self._check_position(frame.epoch, frame.seq)
                # The times in rows are by the primary's clock, also after a promotion.
                self._clock.follow(frame.time)
            case "error":
                raise _Refused(f"the primary refuses: {frame.error:.500}")

    def _take_part(self, text: str) -> None:
        self._size += len(text)
        if self._size > SNAPSHOT:
            raise _Resync("the snapshot has no end")
        self._parts.append(text)

    def _check_standing(self, frame: Frame) -> None:
        """Refuses a primary of another cluster or of an earlier term."""
        cluster, own = frame.cluster, self._term
        has_term, term = frame.term is not UNSET, frame.term or 0
        where = _serving.join_address(*self._address)
        if own.cluster and cluster != own.cluster and (has_term or cluster):
            shown = f"is of cluster {cluster:.32}" if cluster else "names no cluster"
            raise _Refused(
                f"the primary at {where} {shown}, and this copy is of {own.cluster}: it began "
                "anew, or is another's; to follow it all the same, move this registry's store away"
            )
        if not 0 <= term < MAX_TERM:
            raise _Refused(f"the primary at {where} has term {term}, which no registry reaches")
        if has_term and term < own.number:
            raise _Refused(
                f"the primary at {where} has term {term}, and this registry has seen "
                f"{own.number}: it has been replaced"
            )

    async def _adopt(self, rows: object, frame: Frame, *, epoch: str, seq: int) -> None:
        if not isinstance(rows, dict):
            raise _Resync("a snapshot that is no object")
        state = await anyio.to_thread.run_sync(_load, rows, self._clock.now())
        keeps = await self._judge(state, frame.term or 0)
        await self._ledger.adopt(state, keeps="diverged" if keeps else "")
        self._term.adopt(frame.cluster[:_CLUSTER], frame.term or 0)
        self._epoch, self._seq = epoch, seq
        self._mark_current()

    async def _judge(self, state: State, term: int) -> bool:
        """Whether our state is kept in a file before it is replaced.

        Raises:
            PilotError: it must not be replaced by this one.
        """
        ours, where = self._ledger.state, _serving.join_address(*self._address)
        if not ours.nodes:
            return False
        if not state.nodes:
            raise _Refused(f"the primary at {where} is empty: it has lost what this copy has")
        has_lost = state.next_node < ours.next_node
        if has_lost and term <= self._term.number and not self._term.has_led:
            raise _Refused(
                f"the primary at {where} has gone back to an earlier state: it is at id "
                f"{state.next_node}, and this copy at {ours.next_node}; promote this registry, or "
                "move its store away to follow"
            )
        if not (has_lost or self._term.has_led):
            return False
        differing = await anyio.to_thread.run_sync(_differences, ours, state)
        if differing:
            log.warning(
                "diverged", rows=differing, hint="what is replaced is kept beside the store"
            )
        return bool(differing)

    async def _take_delta(self, frame: Frame, epoch: str) -> None:
        self._check_position(epoch, frame.seq - 1)
        rows = frame.changes
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _Resync("a delta without changes")
        await self._ledger.replay(rows, self._clock.now())
        self._seq = frame.seq
        self._mark_current()

    def _check_position(self, epoch: str, seq: int) -> None:
        if epoch != self._epoch:
            raise _Resync("another epoch")
        if seq != self._seq:
            raise _Resync(f"a gap: {self._seq} is the last that came, and {seq} went before")
        self._mark_current()

    def _mark_current(self) -> None:
        self.problem = ""
        if not self.is_current:
            self.is_current = True
            log.info("replication_current", seq=self._seq)


def _load(rows: dict[str, object], now: float) -> State:
    state = snapshot.load(rows, now)
    validation.check_all(state)
    return state


def _differences(ours: State, theirs: State) -> dict[str, int]:
    """Number of our rows that differ or are missing there, by table."""
    found = {}
    for name, table in ours.tables.items():
        count = sum(theirs.row(name, key) != row for key, row in table.pairs())
        if count:
            found[name] = count
    return found
