"""The nameserver: decides who may register and ask what, and answers streams
(docs/reference/protocol/services/names.md)."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from pilotstack import _events
from pilotstack.errors import NotFound, PermissionDenied, PilotError
from pilotstack.services.nameserver import codec, store
from pilotstack.services.nameserver.codec import (
    List,
    Query,
    QueryServices,
    Refused,
    Register,
    Request,
    Unregister,
)
from pilotstack.services.nameserver.memory import Buckets, Remembered
from pilotstack.services.nameserver.records import (
    NameRecord,
    NetworkRecord,
    ServiceRecord,
    is_name,
)
from pilotstack.services.nameserver.zone import TTL, Zone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.client import Driver, Listener, Stream
    from pilotstack.services.nameserver.records import Record
    from pilotstack.services.nameserver.store import Store
    from pilotstack.types import Address

log = _events.get_logger(__name__)

T = TypeVar("T")

#: ``records`` is ``A NAME ADDRESS``, ``short`` is ``OK ADDRESS``. Clients understand one of them.
Dialect = Literal["records", "short"]

#: Seconds for a request to arrive, and without more of it for it to be complete.
PATIENCE: Final = 10.0
PAUSE: Final = 0.05
#: Seconds between changes and the file, and between sweeps.
_SAVE_AFTER: Final = 0.2
_SWEEP: Final = 60.0
#: Seconds for which what the directory said is remembered: hostnames that exist, that do not, and
#: memberships.
NAMES_FOR: Final = 30.0
NO_NAMES_FOR: Final = 5.0
MEMBERS_FOR: Final = 30.0
_REMEMBERED: Final = 4096
#: Questions to the directory that one node causes: per second, and at once.
_QUESTIONS: Final = 10.0
_BURST: Final = 50.0
#: Questions to the directory at the same time, and seconds for one.
_AT_ONCE: Final = 8
_ANSWER: Final = 5.0
#: Seconds for one, where a record is told if there is no answer.
SHORT_ANSWER: Final = 1.0


class Directory(Protocol):
    """What the registry knows."""

    async def resolve(self, name: str) -> Address | None:
        """The node with a hostname; ``None`` if nobody has it.

        Raises:
            PilotError: it cannot be asked.
        """

    async def is_member(self, node: int, network: int) -> bool:
        """Whether a node is in a network, as far as we may know.

        Raises:
            PilotError: it cannot be asked.
        """


class DriverDirectory:
    """The registry as the daemon of a driver sees it.

    Args:
        driver: asks the daemon.
        resolve: asks for hostnames instead of the driver.
    """

    def __init__(
        self,
        driver: Driver,
        resolve: Callable[[str], Awaitable[Address | None]] | None = None,
    ) -> None:
        self._driver = driver
        self._resolve = resolve

    async def resolve(self, name: str) -> Address | None:
        """The node with a hostname."""
        if self._resolve is not None:
            return await self._resolve(name)
        try:
            return (await self._driver.resolve(name)).address
        except NotFound:
            return None

    async def is_member(self, node: int, network: int) -> bool:
        """Whether a node is in a network that we may list."""
        try:
            return any(each.node_id == node for each in await self._driver.members(network))
        except (NotFound, PermissionDenied):
            return False


class Nameserver:
    """Answers streams; give its :meth:`handle` to ``listener.serve``.

    Args:
        directory: knows hostnames and memberships.
        file: keeps the records.
        ttl: seconds for which a record is kept.
        dialect: the form of replies to queries.
        dropped: counts requests that were dropped.
        clock: Unix seconds.

    Raises:
        InvalidArgument: the file is malformed.
    """

    def __init__(
        self,
        directory: Directory,
        file: Store | None = None,
        *,
        ttl: float = TTL,
        dialect: Dialect = "records",
        dropped: Counter[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.zone = Zone(ttl=ttl)
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        #: By kind of request and result.
        self.answers: Counter[tuple[str, str]] = Counter()
        self._directory = directory
        self._file = file
        self._dialect = dialect
        self._clock = clock
        self._hostnames: Remembered[str, Address | None] = Remembered(_REMEMBERED)
        self._members: Remembered[tuple[int, int], bool] = Remembered(_REMEMBERED)
        self._questions = Buckets(_QUESTIONS, _BURST, _REMEMBERED)
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        self._changed = anyio.Event()
        #: Hostnames that are asked for, and the node that this is.
        self._asking: set[str] = set()
        self._own: int | None = None
        if file is not None:
            file.load(self.zone, clock())

    async def serve(self, listener: Listener) -> None:
        """Serves until cancelled or closed."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.keep)
            await listener.serve(self.handle)
            tasks.cancel_scope.cancel()

    async def keep(self) -> None:
        """Stores changes and forgets what has expired, until cancelled."""
        try:
            while True:
                with anyio.move_on_after(_SWEEP):
                    await self._changed.wait()
                # A burst of changes is written once.
                await anyio.sleep(_SAVE_AFTER)
                self.zone.expire(self._clock())
                if self._changed.is_set():
                    self._changed = anyio.Event()
                    await self._save()
        finally:
            with anyio.CancelScope(shield=True):
                if self._changed.is_set():
                    await self._save()

    async def _save(self) -> None:
        if self._file is not None:
            await anyio.to_thread.run_sync(self._file.save, store.encode(self.zone))

    async def handle(self, stream: Stream) -> None:
        """Answers the request of one stream."""
        async with stream:
            self._own = stream.local_address.address.node
            text = await read_request(stream)
            if text is None:
                self.dropped["names_malformed"] += 1
                await stream.send(b"ERR request too long")
                return
            reply = await self.answer(text, stream.remote_address.address)
            # One write: existing clients read once.
            await stream.send(reply.encode())

    async def answer(self, text: str, caller: Address) -> str:
        """The reply to a request of a node, whose address the tunnel proves."""
        kind, result = "malformed", "ok"
        try:
            request = codec.parse_request(text)
            kind = type(request).__name__.lower()
            return await self._answer(request, caller)
        except Refused as refused:
            result = "refused"
            return f"ERR {refused}"
        finally:
            self.answers[kind, result] += 1

    async def _answer(self, request: Request, caller: Address) -> str:
        if not caller.node:
            raise Refused("cannot answer a node without an id")
        match request:
            case Query("N", name):
                return self._network(name)
            case Query(_, name):
                return await self._name(name, caller)
            case QueryServices(network, port):
                return await self._services(network, port, caller)
            case Register(record):
                await self._check(record, caller)
                self.zone.register(record, caller.node, self._clock())
            case Unregister():
                self.zone.unregister(request, caller.node, self._clock())
            case List():
                records = self.zone.of(caller.node, self._clock())
                return "\n".join(map(codec.record_line, records)) or "OK"
        self._changed.set()
        return "OK"

    # Queries

    def _network(self, name: str) -> str:
        found = self.zone.find("N", name, self._clock())
        if not isinstance(found, NetworkRecord):
            raise Refused(f'network "{codec.shown(name)}" not found')
        return f"OK {found.network}" if self._dialect == "short" else codec.record_line(found)

    async def _name(self, name: str, caller: Address) -> str:
        found = self.zone.find("A", name, self._clock())
        recorded = found.address if isinstance(found, NameRecord) else None
        try:
            # A hostname may be younger than a record, and comes first also then.
            address = await self._hostname(name, caller, recorded)
        except Refused:
            if recorded is None:
                raise
            address = None
        if address is None:
            address = recorded
        if address is None or not await self._may_see(address.network, caller):
            raise Refused(f'name "{codec.shown(name)}" not found')
        return f"OK {address}" if self._dialect == "short" else f"A {name} {address}"

    async def _services(self, network: int, port: int, caller: Address) -> str:
        if not await self._may_see(network, caller):
            # As in a network where nobody offers it.
            return codec.services_reply([])
        return codec.services_reply(self.zone.services(network, port, self._clock()))

    async def _may_see(self, network: int, caller: Address) -> bool:
        """What is in a network is for its members."""
        return not network or await self._is_member(caller, network)

    # Registrations

    async def _check(self, record: Record, caller: Address) -> None:
        """Decides whether a node may register a record.

        Raises:
            Refused: it may not.
        """
        if not is_name(record.name):
            raise Refused(f'invalid name: "{codec.shown(record.name)}"')
        match record:
            case NameRecord(name, address):
                if address.node != caller.node:
                    raise Refused("cannot register address for another node")
                await self._check_member(address.network, caller)
                await self._check_hostname(name, caller)
            case NetworkRecord(_, network):
                if not network:
                    raise Refused("cannot register another name for the backbone")
                await self._check_member(network, caller)
            case ServiceRecord(_, address, network):
                if address.node != caller.node:
                    raise Refused("cannot register service for another node")
                if address.network not in (0, network):
                    raise Refused("cannot register service of another network")
                await self._check_member(network, caller)

    async def _check_member(self, network: int, caller: Address) -> None:
        if not await self._may_see(network, caller):
            raise Refused(f"not a member of network {network}")

    async def _check_hostname(self, name: str, caller: Address) -> None:
        """A hostname of the registry is its node's here, too."""
        try:
            address = await self._hostname(name, caller)
        except Refused:
            # Who has the name already keeps it through an outage of the registry.
            if self.zone.owner("A", name, self._clock()) == caller.node:
                return
            raise
        if address is not None and address.node != caller.node:
            raise Refused(f'name "{name}" is taken')

    # The directory, whose answers are remembered

    async def _hostname(
        self, name: str, caller: Address, recorded: Address | None = None
    ) -> Address | None:
        """The node with a hostname.

        Args:
            recorded: the address of the name here.

        Raises:
            Refused: that cannot be found out.
        """
        if not is_name(name):
            return None
        if known := self._hostnames.get(name, self._clock()):
            return known[0]
        if name in self._asking and caller.node == self._own:
            # Our own daemon asks us for what we ask it for.
            return None
        self._asking.add(name)
        patience = _ANSWER if recorded is None else SHORT_ANSWER
        try:
            address = await self._ask(caller, lambda: self._directory.resolve(name), patience)
        finally:
            self._asking.discard(name)
        # Our own daemon may have it of us: it is not remembered for longer than the record lasts.
        seconds = NAMES_FOR if address not in (None, recorded) else NO_NAMES_FOR
        self._hostnames.put(name, address, self._clock() + seconds)
        return address

    async def _is_member(self, caller: Address, network: int) -> bool:
        """Whether a node is in a network.

        Raises:
            Refused: that cannot be found out.
        """
        if caller.network == network:
            # The daemon lets nobody else in with such an address.
            return True
        key = caller.node, network
        if known := self._members.get(key, self._clock()):
            return known[0]
        is_member = await self._ask(caller, lambda: self._directory.is_member(*key))
        self._members.put(key, is_member, self._clock() + MEMBERS_FOR)
        return is_member

    async def _ask(
        self, caller: Address, question: Callable[[], Awaitable[T]], patience: float = _ANSWER
    ) -> T:
        if not self._questions.take(caller.node, self._clock()):
            self.dropped["names_limited"] += 1
            raise Refused("too many questions: try again later")
        try:
            with anyio.fail_after(patience):
                async with self._limiter:
                    return await question()
        except (PilotError, TimeoutError) as error:
            log.debug("registry_not_asked", error=str(error))
            raise Refused("the registry does not answer: try again later") from error


async def read_request(stream: Stream) -> str | None:
    """The text of a request: to its line feed or the end of the stream, or, as existing clients
    send neither, to a pause. ``None`` if it is too long.

    Raises:
        TimeoutError: nothing arrives.
    """
    data = b""
    with anyio.fail_after(PATIENCE):
        while b"\n" not in data:
            try:
                if not data:
                    data = await stream.receive()
                    continue
                with anyio.move_on_after(PAUSE) as pause:
                    data += await stream.receive()
                if pause.cancelled_caught:
                    break
            except anyio.EndOfStream:
                break
            if len(data) > codec.MAX_REQUEST:
                return None
    if len(data) > codec.MAX_REQUEST:
        return None
    return data.partition(b"\n")[0].decode(errors="replace")
