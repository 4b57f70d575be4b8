"""The client's way to a registry: one connection, requests in order, and a list of registries of
which one is used until it breaks or turns out to be a standby.

A broken connection is replaced and the request sent once more, so a request may arrive twice; every
request of the registry bears that. A standby that refuses a write makes the client look for the
primary in its list, and nowhere else: an address in a reply is not followed.

Registries say in every reply which cluster they are of, and in which term. The highest term that
was seen goes with every request, proof included, so that a primary that was replaced learns of it
before it writes; its replies do not count any more. If for long all registries of the list answer,
none in that term, and none knows of it, it is given up: somebody made it up, or what there was of
it is lost. A registry of another cluster is used only if all that answer are of another, and the
rest has been silent for long.
"""

from __future__ import annotations

import math
import ssl
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
    from pilotstack.registry.protocol.tls import Trust

#: Seconds for a connection, TLS included (sheet 1.5).
CONNECT = 5.0
#: Seconds for a connection to a registry that is only tried because another might do better.
PROBE = 2.0
#: Seconds for a reply, the turn of requests before it included, beyond those for which the registry
#: was asked to wait. Programs wait for their daemon for 30, and are to hear whose fault it is.
REPLY = 20.0
#: Seconds for a reply at least, however long it had to wait for its turn.
LEAST = 2.0
#: Seconds after which registries of another cluster are taken for the network, though some of the
#: list do not answer; and after which a term that none of them knows is given up.
PATIENCE = 60.0
#: Registries in a list.
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
    """What registries have said of themselves."""

    def __init__(self) -> None:
        self._cluster = ""
        self._term = 0
        self._proof = ""

    def members(self) -> Message:
        """What goes with a request."""
        if not self._cluster:
            return {}
        members: Message = {"cluster": self._cluster}
        if self._proof:
            members |= {"term": self._term, "term_proof": self._proof}
        return members

    def is_foreign(self, reply: Message) -> bool:
        """Whether a registry of another cluster gave this reply."""
        return bool(self._cluster) and values.text(reply, "cluster") not in ("", self._cluster)

    def is_outdated(self, reply: Message) -> bool:
        """Whether a registry that was replaced gave this reply."""
        if values.flag(reply, "replaced"):
            return True
        named = values.text(reply, "cluster")
        return named == self._cluster != "" and values.number(reply, "term") < self._term

    def note(self, reply: Message) -> None:
        """Believes a reply."""
        cluster, term = values.text(reply, "cluster"), values.number(reply, "term")
        if not cluster or len(cluster) > _NAME:
            return
        if cluster != self._cluster:
            self._cluster, self._term, self._proof = cluster, 0, ""
        if MAX_TERM > term > self._term:
            proof = values.text(reply, "term_proof")
            self._term, self._proof = term, proof if len(proof) <= _NAME else ""

    def forget_term(self) -> None:
        """Believes any term again."""
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


class Connection:
    """Requests and replies with the first of several registries that serves.

    Args:
        addresses: hosts and ports, the preferred one first.
        trust: how a registry is recognized over TLS; ``None`` means plain TCP.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], *, trust: Trust | None = None) -> None:
        if not addresses:
            raise InvalidArgument("no registry is given")
        self.addresses = tuple(addresses)
        self.trust = trust
        self._current = 0
        # More than one only while a better registry is looked for.
        self._links: dict[int, _Link] = {}
        self._lock = anyio.Lock()
        self._seen = _Seen()
        #: Since when only registries of another cluster have answered.
        self._alone_since = math.inf
        #: Since when all registries have answered, each in an earlier term that it holds to.
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
            wait: seconds that the registry may take beyond the usual.

        Raises:
            ConnectionFailed: no registry answers.
            PermissionDenied: the ones that do show a certificate that was not pinned.
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
            # Whoever asks next must not get this answer.
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        finally:
            self._lock.release()

    async def _ask_all(self, message: Message, deadline: float) -> Message:
        second_best: tuple[int, Message] | None = None
        foreign: tuple[int, Message] | None = None
        outdated: set[int] = set()
        refusal: PilotError | None = None
        failures: dict[int, Exception] = {}
        others = [i for i in range(len(self.addresses)) if i != self._current]
        for index in (self._current, *others):
            frame = framing.encode({**message, **self._seen.members()})
            has_other = second_best is not None or foreign is not None
            try:
                reply = await self._ask(index, frame, deadline, PROBE if has_other else CONNECT)
            except PilotError as error:
                refusal = error
                continue
            except _BROKEN as error:
                failures[index] = error
                continue
            if self._seen.is_foreign(reply):
                foreign = foreign or (index, reply)
                continue
            self._alone_since = math.inf
            is_outdated = self._seen.is_outdated(reply)
            if not is_outdated:
                self._seen.note(reply)
            if not (is_outdated or is_standby(reply)):
                self._outdated_since = math.inf
                await self._settle(index)
                return reply
            # An outdated one that does not know that it is answers like any other.
            if is_standby(reply) or values.flag(reply, "replaced"):
                second_best = second_best or (index, reply)
            else:
                outdated.add(index)
                refusal = _replaced(self.addresses[index])
        self._note_outdated(is_all=len(outdated) == len(self.addresses))
        if second_best is not None:
            await self._settle(second_best[0])
            return second_best[1]
        has_failed = refusal is not None or bool(failures)
        if foreign is not None and (not has_failed or self._is_patience_over()):
            return await self._change_cluster(*foreign, message, deadline)
        raise refusal or self._unreachable(failures)

    def _note_outdated(self, *, is_all: bool) -> None:
        """Gives up a term when nobody has known it for long. Requests carry its proof, so a
        registry that was replaced would know by then."""
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
        """Whether only others than the known cluster have answered for long."""
        now = anyio.current_time()
        self._alone_since = min(self._alone_since, now)
        return now - self._alone_since >= PATIENCE

    async def _change_cluster(
        self, index: int, reply: Message, message: Message, deadline: float
    ) -> Message:
        """Nobody of the known cluster is left, and all that answer are of another: theirs is the
        network now. What was refused because of ours is asked again."""
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
