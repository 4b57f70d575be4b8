"""Services that the daemon offers by itself, through one ordinary driver on its own socket
(docs/decisions/0023-port-444-is-served-by-an-ordinary-driver.md).

To add one, write how its handler is made, and a row of :data:`BUILTINS`.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from pilotstack import _events, _serving, wellknown
from pilotstack.client import Driver
from pilotstack.daemon.config import files_folder
from pilotstack.errors import AlreadyExists, PilotError
from pilotstack.services.limits import Limited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pilotstack.client import Listener, Place, Stream
    from pilotstack.daemon.config import DaemonConfig
    from pilotstack.daemon.state import NodeState
    from pilotstack.services.limits import Handler
    from pilotstack.services.status import Service, Status
    from pilotstack.types import Address

log = _events.get_logger(__name__)

#: Streams of one service at once, and those of one peer among them, unless its row says otherwise.
TOTAL: Final = 256
PER_PEER: Final = 16
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Parts:
    """What services are made from.

    Args:
        config: the daemon's settings.
        state: the node, as registered.
        driver: the session that serves.
        tasks: ends with the services; for tasks that outlive a stream.
        offered: the services of this node.
        dropped: what services dropped, by service and reason; shown with the daemon's counters.
        hostname: the node behind a hostname of the registry, if there is one.
        kept: the file for state of a kind, beside the identity; ``None`` if nothing is kept.
        started: when the daemon began, in monotonic seconds.
    """

    config: DaemonConfig
    state: NodeState
    driver: Driver
    tasks: anyio.abc.TaskGroup
    offered: Callable[[], tuple[Service, ...]]
    dropped: Counter[str]
    hostname: Callable[[str], Awaitable[Address | None]]
    kept: Callable[[str], Path | None]
    started: float


@dataclass(frozen=True, slots=True)
class Builtin:
    """One service.

    Args:
        port: where it listens.
        is_on: whether the settings want it.
        make: makes the handler of its streams when the first one arrives. It imports what it needs:
            a service that nobody uses costs no memory.
        total: streams at once; others are reset.
        per_peer: those of one node.
        is_eager: make the handler at the start, for what may fail.
    """

    port: int
    is_on: Callable[[DaemonConfig], bool]
    make: Callable[[Parts], Handler]
    total: int = TOTAL
    per_peer: int = PER_PEER
    is_eager: bool = False

    @property
    def name(self) -> str:
        """What others know it as."""
        return wellknown.SERVICES[self.port]


def _status(parts: Parts) -> Handler:
    from pilotstack.services import status

    state = parts.state

    def now() -> Status:
        return status.Status(
            address=state.address,
            hostname=state.hostname,
            version=wellknown.VERSION,
            uptime_secs=int(time.monotonic() - parts.started),
            services=parts.offered(),
        )

    return status.handler(now)


def _names(parts: Parts) -> Handler:
    from pilotstack.services.nameserver.server import DriverDirectory, Nameserver
    from pilotstack.services.nameserver.store import Store

    directory = DriverDirectory(parts.driver, parts.hostname)
    server = Nameserver(directory, Store(parts.kept("names")), dropped=parts.dropped)
    parts.tasks.start_soon(server.keep)
    return server.handle


class _Counts(Counter[str]):
    """What one service dropped, which is shown with its name before it."""

    def __init__(self, service: str, shown: Counter[str]) -> None:
        super().__init__()
        self._service = service
        self._shown = shown

    def __setitem__(self, reason: str, count: int) -> None:
        super().__setitem__(reason, count)
        self._shown[f"{self._service}_{reason}"] = count


def _data_exchange(parts: Parts) -> Handler:
    from pilotstack.services.data_exchange import DataExchange, Limits

    total = int(parts.config.files_quota * _GIB)
    exchange = DataExchange(
        files_folder(parts.config),
        limits=Limits(total_bytes=total, sender_bytes=total // 2),
        dropped=_Counts("files", parts.dropped),
    )
    parts.tasks.start_soon(_close_at_the_end, exchange.close)
    return exchange


def _event_stream(parts: Parts) -> Handler:
    from pilotstack.services.event_stream import EventStream

    return EventStream(dropped=_Counts("events", parts.dropped))


async def _close_at_the_end(close: Callable[[], None]) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        close()


#: In the order of their ports.
BUILTINS: Final = (
    Builtin(wellknown.STATUS_PORT, lambda config: config.has_status, _status),
    Builtin(wellknown.NAME_PORT, lambda config: config.is_nameserver, _names, is_eager=True),
    Builtin(wellknown.DATA_EXCHANGE_PORT, lambda config: config.has_data_exchange, _data_exchange),
    # Each subscription is a stream that stays.
    Builtin(
        wellknown.EVENT_STREAM_PORT,
        lambda config: config.has_event_stream,
        _event_stream,
        total=8192,
        per_peer=2048,
    ),
)


class Builtins:
    """The services of one daemon.

    Args:
        config: says which are wanted.
        state: the node.
        hostname: see :class:`Parts`.
        kept: see :class:`Parts`.
    """

    def __init__(
        self,
        config: DaemonConfig,
        state: NodeState,
        hostname: Callable[[str], Awaitable[Address | None]],
        kept: Callable[[str], Path | None],
    ) -> None:
        self._config = config
        self._state = state
        self._hostname = hostname
        self._kept = kept
        self._started = time.monotonic()
        #: The session of all services, once it is open.
        self.driver: Driver | None = None
        self._doors: dict[int, _Door] = {}
        self._dropped: Counter[str] = Counter()

    @property
    def dropped(self) -> dict[str, int]:
        """What services dropped, by reason; ``busy`` are streams that found no seat."""
        busy = sum(door.refused for door in self._doors.values())
        return {"busy": busy, **self._dropped}

    def offered(self) -> tuple[Service, ...]:
        """What this node offers by itself."""
        from pilotstack.services.status import Service

        ports = {wellknown.LIVENESS_PORT, wellknown.HANDSHAKE_PORT, *self._doors}
        if self._config.has_echo:
            ports.add(wellknown.ECHO_PORT)
        return tuple(Service(port, wellknown.SERVICES[port]) for port in sorted(ports))

    async def run(self, place: Place, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves until cancelled; starts when every port is bound.

        A port that a program has taken is the program's: the service stays away.
        """
        async with Driver(place) as driver, anyio.create_task_group() as tasks:
            self.driver = driver
            parts = Parts(
                self._config,
                self._state,
                driver,
                tasks,
                self.offered,
                self._dropped,
                self._hostname,
                self._kept,
                self._started,
            )
            for builtin in BUILTINS:
                if builtin.is_on(self._config):
                    await self._open(builtin, parts)
            task_status.started()
            # The driver stays open for services that dial.
            await anyio.sleep_forever()

    async def _open(self, builtin: Builtin, parts: Parts) -> None:
        try:
            listener = await parts.driver.listen(builtin.port)
        except AlreadyExists:
            log.warning("service_not_offered", service=builtin.name, port=builtin.port)
            return
        door = self._doors[builtin.port] = _Door(builtin, parts)
        if builtin.is_eager:
            door.make()
        parts.tasks.start_soon(_keep_open, listener, door)


async def _keep_open(listener: Listener, door: _Door) -> None:
    try:
        await listener.serve(door, on_error=door.failed)
    except (PilotError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        # The core stopped; the daemon learns that from the core itself.
        log.debug("service_closed", port=listener.port)


class _Door:
    """Serves the streams of one port; the service behind it is made for the first one."""

    def __init__(self, builtin: Builtin, parts: Parts) -> None:
        self._builtin = builtin
        self._parts = parts
        self._limited: Limited | None = None

    @property
    def refused(self) -> int:
        """Streams that were reset, because there were too many."""
        return self._limited.refused if self._limited is not None else 0

    def make(self) -> Limited:
        """Makes the service."""
        builtin, parts = self._builtin, self._parts
        self._limited = Limited(
            builtin.make(parts),
            parts.driver.abort,
            total=builtin.total,
            per_peer=builtin.per_peer,
        )
        return self._limited

    async def __call__(self, stream: Stream) -> None:
        await (self._limited or self.make())(stream)

    def failed(self, error: Exception, stream: Stream) -> None:
        """A stream must not stop the others, nor fill the log."""
        del stream
        if not isinstance(error, TimeoutError):
            _serving.failures.note(f"service_{self._builtin.port}", error)
