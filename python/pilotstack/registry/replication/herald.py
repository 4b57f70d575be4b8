"""Tells a replaced primary that its term is over, so that no two registries accept writes. Repeated
for ever, since the old primary may come back from a backup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events, _serving
from pilotstack.errors import PilotError
from pilotstack.registry.protocol import framing, values
from pilotstack.registry.protocol.requests.base import name_of
from pilotstack.registry.protocol.requests.replication import AnnounceTerm
from pilotstack.registry.protocol.tls import TlsTrust, open_stream

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.replication.standing import Standing

log = _events.get_logger(__name__)

#: Seconds to connect, and for the reply.
CONNECT: Final = 5.0
REPLY: Final = 10.0
#: Seconds between attempts, at first and at most, and after a successful one.
RETRY: Final = (0.25, 2.0)
AGAIN: Final = 5.0
_READ: Final = 1 << 16


class Herald:
    """Speaks to one registry.

    Args:
        standing: cluster and term, with the proof.
    """

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._address, self._trust = standing.term.last_primary
        #: Result of the last attempt.
        self.outcome = ""

    @property
    def has_work(self) -> bool:
        """Whether there is a former primary, and a proof for it."""
        return bool(self._address and "term_proof" in self._standing.members)

    async def run(self) -> None:
        """Tells it until cancelled."""
        delay = RETRY[0]
        while not self._standing.is_replaced:
            try:
                outcome = await self._tell()
            except (TimeoutError, OSError, PilotError, framing.ProtocolError) as error:
                outcome = ""
                log.debug("former_primary_silent", reason=str(error) or type(error).__name__)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                outcome = ""
            if outcome and outcome != self.outcome:
                log.warning("former_primary", address=self._address, outcome=outcome)
            self.outcome = outcome
            await anyio.sleep(AGAIN if outcome else delay)
            delay = RETRY[0] if outcome else min(2 * delay, RETRY[1])

    async def _tell(self) -> str:
        host, port = _serving.split_address(self._address)
        trust = None
        if self._trust is not None:
            trust = TlsTrust(tuple(filter(None, self._trust.split(","))))
        with anyio.fail_after(CONNECT):
            stream = await open_stream(host, port, trust)
        try:
            request = {"type": name_of(AnnounceTerm), **self._standing.members}
            framer = framing.Framer()
            with anyio.fail_after(REPLY):
                await stream.send(framing.encode(request))
                while (body := framer.next_body()) is None:
                    framer.feed(await stream.receive(_READ))
            return self._outcome(framing.decode(body))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    def _outcome(self, reply: Message) -> str:
        if self._standing.is_foreign(values.text(reply, "cluster")):
            return "it is of another cluster"
        term = values.number(reply, "term")
        if values.flag(reply, "replaced") or term == self._standing.term.number:
            return "it knows that it was replaced"
        if term > self._standing.term.number:
            return "it has a higher term"
        return "it does not know what a term is, and may go on taking writes"
