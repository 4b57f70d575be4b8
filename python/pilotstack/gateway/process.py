"""The process of a gateway: what it is made of, and in which order that begins and ends."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import msgspec

from pilotstack import _events, _paths, _serving, wellknown
from pilotstack.client import Driver
from pilotstack.errors import AlreadyExists, InvalidArgument, PilotError
from pilotstack.gateway import control, dns
from pilotstack.gateway.aliases import Aliases, LoopbackAliases, NoAliases
from pilotstack.gateway.gateway import Gateway
from pilotstack.gateway.guard import Guard
from pilotstack.gateway.mapping import Mapping, Row, parse_subnet
from pilotstack.gateway.proxy import Proxy
from pilotstack.gateway.store import Store
from pilotstack.services.relaying import IDLE, Carrier, Relays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pilotstack.gateway.config import GatewayConfig

log = _events.get_logger(__name__)

#: Descriptors of a connection at most: two sockets, and a pipe in each direction.
_DESCRIPTORS = 6
#: Mappings, and failures, in the line that says that the gateway serves.
_SHOWN = 50
#: Streams that the daemon gives one program.
_MAX_LIMIT = 8192


class Mapped(msgspec.Struct, tag="mapped", tag_field="event", frozen=True):
    """An agent has a local IP."""

    row: Row


class Failed(msgspec.Struct, tag="failed", tag_field="event", frozen=True):
    """One could not be mapped."""

    agent: str
    code: str
    message: str
    hint: str | None


class Ready(msgspec.Struct, tag="ready", tag_field="event", frozen=True):
    """The gateway serves."""

    pid: int
    subnet: str
    control: str
    proxy: str
    #: Where DNS is served; empty if it is not.
    dns: str
    #: The first ones; the control socket has all.
    mappings: list[Row]
    failed: list[Failed]
    total: int
    #: Where health and metrics are served; empty if they are not.
    http: str = ""


async def run(
    config: GatewayConfig,
    stopping: anyio.Event,
    tell: Callable[[Mapped | Failed | Ready], object],
) -> None:
    """Runs a gateway until ``stopping``.

    Args:
        config: its settings.
        stopping: set to end it.
        tell: told of mappings at the start, and when it serves.

    Raises:
        PilotError: it cannot start; then nothing of it is left.
    """
    mapping = Mapping(config.network)
    aliases: Aliases = NoAliases() if _is_local(config) else LoopbackAliases()
    _make_directories(config)
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(config.control_path))
        driver = await stack.enter_async_context(
            Driver(config.socket or wellknown.default_socket(), reconnect=True)
        )
        proxy_socket = None
        if config.proxy:
            at = _serving.split_address(config.proxy)
            proxy_socket = stack.enter_context(_serving.listen(*at, backlog=512))
        listening = stack.enter_context(control.bind(config.control_path))
        stack.callback(_unlink, config.control_path)
        limit = config.limit or _room()
        idle = IDLE if config.idle is None else config.idle
        relays = await stack.enter_async_context(Relays(limit, idle))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        carrier = Carrier(driver, relays)
        store = Store(config.state_path)
        guard = Guard(config.uids)
        gateway = Gateway(config, driver, carrier, aliases, mapping, store, tasks, guard)
        proxy = Proxy(carrier, mapping, limit, guard)
        dropped: Counter[str] = Counter()
        names = None
        if config.dns:
            names = await stack.enter_async_context(
                dns.server(config.dns, driver, gateway, dropped)
            )
        named = _serving.join_address(*names.address) if names is not None else ""
        proxied = _serving.join_address(*proxy_socket.getsockname()[:2]) if proxy_socket else ""

        def status() -> control.Status:
            refused = dict(relays.refused + proxy.dropped + dropped + guard.dropped)
            return control.Status(
                os.getpid(),
                str(mapping.subnet),
                proxied,
                gateway.rows(),
                len(relays),
                relays.total,
                refused,
            )

        served = ""
        if config.http:
            served = await _monitored(config.http, status, driver, relays, stack, tasks)
        failed = await _map_all(config, gateway, tell)
        tasks.start_soon(aliases.renew)
        if proxy_socket is not None:
            tasks.start_soon(proxy.serve, proxy_socket)
        if names is not None:
            tasks.start_soon(names.serve)
        controlled = control.ControlSocket(listening, gateway, status, stopping.set)
        tasks.start_soon(controlled.serve)
        place, rows = str(config.control_path), gateway.rows()
        shown = rows[:_SHOWN], failed[:_SHOWN], len(rows)
        tell(Ready(os.getpid(), str(mapping.subnet), place, proxied, named, *shown, served))
        await stopping.wait()
        tasks.cancel_scope.cancel()


async def _monitored(
    address: str,
    status: Callable[[], control.Status],
    driver: Driver,
    relays: Relays,
    stack: AsyncExitStack,
    tasks: anyio.abc.TaskGroup,
) -> str:
    """Serves health and metrics; returns where."""
    from pilotstack.gateway import monitor
    from pilotstack.services.daemon_check import DaemonCheck

    check = DaemonCheck(driver)
    tasks.start_soon(_serving.keep_running, "daemon_check", check.run)
    page = monitor.http_server(address, status, relays, check)
    await stack.enter_async_context(page)
    tasks.start_soon(_serving.keep_running, "http", page.serve)
    return _serving.join_address(*page.address)


def _room() -> int:
    """Connections that fit into open files, and that the daemon gives one program."""
    return min(_MAX_LIMIT, max(1, _serving.room_for_connections() // _DESCRIPTORS))


async def _map_all(
    config: GatewayConfig, gateway: Gateway, tell: Callable[[Mapped | Failed | Ready], object]
) -> list[Failed]:
    """Takes up what was mapped before, and maps the agents that are named.

    Raises:
        PilotError: the first failure, if nothing could be mapped though something should have been.
    """
    errors = [("", error) for error in await gateway.restore()]
    for agent in config.agents:
        try:
            await gateway.map(agent)
        except PilotError as error:
            errors.append((agent, error))
    rows = gateway.rows()
    if errors and not rows and not (config.proxy or config.dns):
        raise errors[0][1]
    for row in rows:
        tell(Mapped(row))
    failed = [Failed(agent, error.code, str(error), error.hint) for agent, error in errors]
    for failure in failed:
        log.error("mapping_failed", agent=failure.agent, reason=failure.message)
        tell(failure)
    return failed


def _is_local(config: GatewayConfig) -> bool:
    """Whether all IPs are addresses of this host anyway."""
    subnet = parse_subnet(config.network)
    if config.is_unprivileged and not subnet.is_loopback:
        raise InvalidArgument(
            f"{subnet} is not part of 127.0.0.0/8",
            hint="without privileges, only those IPs are addresses of this host",
        )
    return subnet.version == 4 and subnet.is_loopback


def _make_directories(config: GatewayConfig) -> None:
    try:
        for path in (config.control_path, config.state_path):
            if path.parent == config.home:
                _paths.make_home()
            else:
                _paths.make_directories(path.parent)
    except OSError as error:
        raise InvalidArgument(
            f"cannot make the directory of {path}: {error.strerror}",
            hint="name another place with PILOT_HOME, --control or --state",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Owns the control socket's path. The lock's file stays, so that nobody locks one that another
    process is about to remove.

    Raises:
        AlreadyExists: another gateway does.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"cannot lock {lock}: {error.strerror}", hint="name another place with --control"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExists(
                f"a gateway runs already, at {path}",
                hint="add agents with: pilotctl gateway map; stop it with: pilotctl gateway stop",
            ) from error
        yield
    finally:
        os.close(fd)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
