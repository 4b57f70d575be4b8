"""The client's connection to a registry: requests in order, to one of a list of registries that is
used until it fails or turns out to be a standby.

After a connection failure the request is sent again on a new one, so it may arrive twice; all
requests are idempotent. When a standby refuses a write, the client looks for the primary in its
list, and nowhere else: an address in a reply is not followed.

Every reply names the registry's cluster and term. The highest term seen, with its proof, goes with
every request, so that a replaced primary learns of it before it writes; its replies are ignored. If
for long all registries of the list answer and none knows that term, it is given up: it was invented
or lost. A registry of another cluster is used only if all that answer are of another, and the rest
has been silent for long.
"""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from pilotstack import _serving
from pilotstack.errors import ConnectionFailed, InvalidArgument, PilotError
from pilotstack.registry.client.causes import cause_of
from pilotstack.registry.protocol import framing, values
from pilotstack.registry.protocol.standing import MAX_TERM, is_standby
from pilotstack.registry.protocol.tls import open_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.protocol.tls import TlsTrust

#: Seconds to connect, including TLS.
CONNECT = 5.0
#: Seconds to connect to a registry if another has already answered.
PROBE = 2.0
#: Seconds for a reply, including the wait for earlier requests, beyond those for which the registry
#: was asked to hold it. Programs wait 30 for their daemon, so they learn who did not answer.
REPLY = 20.0
#: Seconds for a reply at least, however long the request waited for its turn.
LEAST = 2.0
#: Seconds after which registries of another cluster are accepted although some of the list do not
#: answer, and after which a term that none of them knows is given up.
PATIENCE = 60.0
#: Registries in a list, at most.
MAX_REGISTRIES = 16
_READ = 1 << 16
#: Characters of a cluster's name and of a proof.
_NAME = 64

_BROKEN = (
    OSError,
    ssl.SSLError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    framing.ProtocolError,
    # A host name that cannot be encoded.
    UnicodeError,
)


def parse_addresses(texts: str | Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Hosts and ports of ``host:port,host:port``, or of several such texts.

    Raises:
        InvalidArgument: there are none, too many, or one is no address.
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    parts = [part.strip() for text in listed for part in text.split(",") if part.strip()]
    if not 0 < len(parts) <= MAX_REGISTRIES:
        raise InvalidArgument(
            f"{len(parts)} registries instead of 1 to {MAX_REGISTRIES}",
            hint="give them as host:port,host:port",
        )
    return tuple(_serving.split_address(part) for part in parts)


class _Seen:
    """The cluster and the highest term that registries have named."""

    def __init__(self) -> None:
        self._cluster = ""
        self._term = 0
        self._proof = ""

    def members(self) -> Message:
        """Members to add to a request."""
        if not self._cluster:
            return {}
        members: Message = {"cluster": self._cluster}
        if self._proof:
            members |= {"term": self._term, "term_proof": self._proof}
        return members

    def is_foreign(self, reply: Message) -> bool:
        """Whether a reply is from a registry of another cluster."""
        return bool(self._cluster) and values.text(reply, "cluster") not in ("", self._cluster)

    def is_outdated(self, reply: Message) -> bool:
        """Whether a reply is from a registry that was replaced."""
        if values.flag(reply, "replaced"):
            return True
        named = values.text(reply, "cluster")
        return named == self._cluster != "" and values.number(reply, "term") < self._term

    def note(self, reply: Message) -> None:
        """Takes over cluster and term of a reply."""
        cluster, term = values.text(reply, "cluster"), values.number(reply, "term")
        if not cluster or len(cluster) > _NAME:
            return
        if cluster != self._cluster:
            self._cluster, self._term, self._proof = cluster, 0, ""
        if MAX_TERM > term > self._term:
            proof = values.text(reply, "term_proof")
            self._term, self._proof = term, proof if len(proof) <= _NAME else ""

    def forget_term(self) -> None:
        """Accepts any term again."""
        self._term, self._proof = 0, ""


class _Link:
    """One connection to one registry."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._framer = framing.Framer()

    async def exchange(self, frame: bytes, deadline: float) -> Message:
        with anyio.fail_after(deadline):
            await self._stream.send(frame)
            while (body := self._framer.next_body()) is None:
                self._framer.feed(await self._stream.receive(_READ))
        return framing.decode(body)

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)


def _replaced(address: tuple[str, int]) -> ConnectionFailed:
    return ConnectionFailed(
        f"the registry at {_serving.join_address(*address)} has been replaced by another",
        hint="name the one that serves in --registry",
    )


@dataclass(slots=True)
class _Round:
    """The registries of the list that were asked and did not serve a request."""

    #: The first reply of a standby or a replaced primary, and of another cluster.
    standby: tuple[int, Message] | None = None
    foreign: tuple[int, Message] | None = None
    #: Number of registries in an earlier term that do not know it.
    outdated: int = 0
    #: The last error that is not a failure of the connection.
    refusal: PilotError | None = None
    failures: dict[int, Exception] = field(default_factory=dict)

    @property
    def has_reply(self) -> bool:
        """Whether there is a reply to fall back on."""
        return self.standby is not None or self.foreign is not None

    @property
    def has_failed(self) -> bool:
        """Whether a registry did not answer or must not be believed."""
        return self.refusal is not None or bool(self.failures)


class Connection:
    """Requests and replies with the first of several registries that serves.

    Args:
        addresses: hosts and ports, the preferred one first.
        trust: how a registry is authenticated over TLS; ``None`` for plain TCP.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], *, trust: TlsTrust | None = None
    ) -> None:
        if not addresses:
            raise InvalidArgument("no registry is given")
        self.addresses = tuple(addresses)
        self.trust = trust
        self._current = 0
        # More than one only while looking for the primary.
        self._links: dict[int, _Link] = {}
        self._lock = anyio.Lock()
        self._seen = _Seen()
        #: Time since which only registries of another cluster have answered.
        self._alone_since = math.inf
        #: Time since which all registries have answered, each in an earlier term.
        self._outdated_since = math.inf

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the registry in use."""
        return self.addresses[self._current]

    async def aclose(self) -> None:
        """Closes the connection; the next request opens another."""
        for index in list(self._links):
            await self._drop(index)

    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        """Sends one request and returns its reply, which may be a refusal.

        Args:
            wait: seconds that the registry may take in addition.

        Raises:
            ConnectionFailed: no registry answers.
            PermissionDenied: the certificate of those that do is not pinned.
        """
        patience, started = REPLY + wait, anyio.current_time()
        with anyio.move_on_after(patience) as turn:
            await self._lock.acquire()
        if turn.cancelled_caught:
            raise self._unreachable({self._current: TimeoutError()})
        try:
            waited = anyio.current_time() - started
            return await self._ask_all(message, max(LEAST, patience - waited))
        except BaseException:
            # The next request must not get this reply.
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        finally:
            self._lock.release()

    async def _ask_all(self, message: Message, deadline: float) -> Message:
        found = _Round()
        others = [i for i in range(len(self.addresses)) if i != self._current]
        for index in (self._current, *others):
            reply = await self._try(index, message, deadline, found)
            if reply is not None and self._is_served(index, reply, found):
                self._outdated_since = math.inf
                await self._settle(index)
                return reply
        self._note_outdated(is_all=found.outdated == len(self.addresses))
        if found.standby is not None:
            index, reply = found.standby
            await self._settle(index)
            return reply
        if found.foreign is not None and (not found.has_failed or self._is_patience_over()):
            return await self._change_cluster(*found.foreign, message, deadline)
        raise found.refusal or self._unreachable(found.failures)

    async def _try(
        self, index: int, message: Message, deadline: float, found: _Round
    ) -> Message | None:
        """The reply of one registry; a failure is recorded."""
        frame = framing.encode({**message, **self._seen.members()})
        try:
            return await self._ask(index, frame, deadline, PROBE if found.has_reply else CONNECT)
        except PilotError as error:
            found.refusal = error
        except _BROKEN as error:
            found.failures[index] = error
        return None

    def _is_served(self, index: int, reply: Message, found: _Round) -> bool:
        """Whether a reply is from the primary of the known cluster; others are recorded."""
        if self._seen.is_foreign(reply):
            found.foreign = found.foreign or (index, reply)
            return False
        self._alone_since = math.inf
        is_outdated = self._seen.is_outdated(reply)
        if not is_outdated:
            self._seen.note(reply)
        if not (is_outdated or is_standby(reply)):
            return True
        # An outdated registry that does not know of its successor answers normally.
        if is_standby(reply) or values.flag(reply, "replaced"):
            found.standby = found.standby or (index, reply)
        else:
            found.outdated += 1
            found.refusal = _replaced(self.addresses[index])
        return False

    def _note_outdated(self, *, is_all: bool) -> None:
        """Gives up a term that no registry has known for long. Requests carry its proof, so a
        replaced registry would know it by then."""
        now = anyio.current_time()
        self._outdated_since = min(self._outdated_since, now) if is_all else math.inf
        if now - self._outdated_since >= PATIENCE:
            self._seen.forget_term()
            self._outdated_since = math.inf

    def _unreachable(self, failures: Mapping[int, Exception]) -> ConnectionFailed:
        causes = {
            _serving.join_address(*self.addresses[index]): cause_of(
                error, is_tls=self.trust is not None
            )
            for index, error in failures.items()
        }
        texts = "; ".join(f"the registry at {name} {cause.text}" for name, cause in causes.items())
        failure = ConnectionFailed(texts, hint=next(iter(causes.values())).hint)
        failure.__cause__ = next(iter(failures.values()))
        return failure

    def _is_patience_over(self) -> bool:
        """Whether only registries of other clusters have answered for long."""
        now = anyio.current_time()
        self._alone_since = min(self._alone_since, now)
        return now - self._alone_since >= PATIENCE

    async def _change_cluster(
        self, index: int, reply: Message, message: Message, deadline: float
    ) -> Message:
        """Accepts the cluster of a reply, since the known one is gone. A request that was refused
        for the old cluster is sent again."""
        self._seen.note(reply)
        self._alone_since = math.inf
        if reply.get("code") == "foreign":
            frame = framing.encode({**message, **self._seen.members()})
            reply = await self._ask(index, frame, deadline, CONNECT)
        await self._settle(index)
        return reply

    async def _ask(self, index: int, frame: bytes, deadline: float, patience: float) -> Message:
        link = self._links.get(index)
        if link is not None:
            try:
                return await link.exchange(frame, deadline)
            except TimeoutError:
                await self._drop(index)
                raise
            except _BROKEN:
                await self._drop(index)
        with anyio.fail_after(patience):
            link = _Link(await open_stream(*self.addresses[index], self.trust))
        self._links[index] = link
        try:
            return await link.exchange(frame, deadline)
        except _BROKEN:
            await self._drop(index)
            raise

    async def _settle(self, index: int) -> None:
        self._current = index
        for other in [i for i in self._links if i != index]:
            await self._drop(other)

    async def _drop(self, index: int) -> None:
        link = self._links.pop(index, None)
        if link is not None:
            with anyio.CancelScope(shield=True):
                await link.aclose()
