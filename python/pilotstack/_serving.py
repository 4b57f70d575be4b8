"""Parts of every server process: addresses, accepting connections, signals, tasks that survive
failures, the line that announces readiness, and error exits."""

from __future__ import annotations

import errno
import functools
import gc
import importlib.util
import itertools
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import anyio
import anyio.abc
import click

from pilotstack import _commands, _events, _logs, _notify, _resolving, _streams
from pilotstack.errors import (
    AlreadyExists,
    InternalError,
    InvalidArgument,
    PermissionDenied,
    PilotError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    #: What task groups start.
    _Task = Coroutine[Any, Any, None]

log = _events.get_logger(__name__)

_Arguments = ParamSpec("_Arguments")

LEVELS = _logs.LEVELS
FORMATS = _logs.FORMATS
_MAX_PORT = 0xFFFF
#: Digits of a port; converting a longer text takes long, or fails.
_MAX_DIGITS = 5
#: Open files assumed for a process without a limit; and how many of them are reserved for other
#: purposes than connections, at least and at most.
_MAX_FILES = 1 << 20
_OTHER_FILES, _MAX_OTHER_FILES = 32, 1024
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
#: Exit status of a usage error.
_USAGE = 2
#: Connections accepted before other tasks get a turn.
_ACCEPT_BURST = 256
#: Seconds before the next attempt after ``accept`` failed.
_ACCEPT_RETRY = 0.1
#: Seconds before a failed task is restarted.
_AGAIN = 1.0
#: Seconds between two tracebacks of the same task, so that a peer that causes failures cannot fill
#: the log.
_TELL_EVERY = 10.0
#: Seconds for stdout to accept a line.
_ANNOUNCE = 0.2


def configure_logging(level: str, form: str) -> None:
    """Sends log records of Python and of the core to stderr."""
    _logs.configure(level, form)


def raise_file_limit() -> None:
    """Raises the soft limit of open files, which is usually low, to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for_connections() -> int:
    """Connections that fit into the limit of open files, of which a quarter is reserved for other
    purposes; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, limit - max(_OTHER_FILES, min(limit // 4, _MAX_OTHER_FILES)))


def split_address(text: str, *, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """Host and port of ``host:port``, ``[v6]:port`` or ``:port``.

    Raises:
        InvalidArgument: the text has another form.
    """
    host, colon, digits = text.rpartition(":")
    port = parse_port(digits)
    if not colon or port is None:
        raise InvalidArgument(
            f"not an address: {text[:100]!r}", hint="addresses look like 127.0.0.1:9000 or :9000"
        )
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    return _resolving.check_host(host or default_host), port


def parse_port(digits: str) -> int | None:
    """A port of 0 to 65,535; ``None`` for any other text."""
    if not (len(digits) <= _MAX_DIGITS and digits.isascii() and digits.isdecimal()):
        return None
    return port if (port := int(digits)) <= _MAX_PORT else None


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """A listening TCP socket; port 0 means any.

    Raises:
        OSError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server(
            (host, port), family=family, backlog=backlog, dualstack_ipv6=host == "::"
        )
    except OSError as error:
        raise bind_error("TCP", host, port, error) from error
    listening.setblocking(False)
    return listening


def bind_error(kind: str, host: str, port: int, error: OSError) -> OSError:
    """The error for an address that cannot be bound, with a message that names it."""
    address = join_address(host, port)
    # The core gives the number in the message only.
    told = _OS_ERROR.search(str(error))
    number = error.errno or (int(told[1]) if told else 0)
    match number:
        case errno.EADDRINUSE:
            return AlreadyExists(
                f"{kind} port {port} is in use: {address}",
                hint="stop the program that has it, or choose another port",
            )
        case errno.EACCES | errno.EPERM:
            return PermissionDenied(
                f"{kind} port {port} may not be used: {address}",
                hint="ports below 1024 are for privileged programs; choose another port",
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return _NoSuchAddress(
                f"this host has no address {host}",
                hint="listen on one that it has, or on every one with an address like :9000",
            )
        case _:
            return error


class _NoSuchAddress(InvalidArgument, OSError):
    """This host does not have the address to listen on."""


class Failures:
    """Counts unexpected failures by task. Peers cannot choose the names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def note(self, what: str, error: BaseException) -> None:
        """Counts a failure, and logs it with its traceback unless one of the same task was logged
        in the last :data:`_TELL_EVERY` seconds."""
        self.counts[what] += 1
        now = time.monotonic()
        if now - self._told.get(what, -_TELL_EVERY) >= _TELL_EVERY:
            self._told[what] = now
            log.error("task_failed", task=what, times=self.counts[what], exc_info=error)


#: The failures of this process.
failures: Final = Failures()


async def contain(what: str, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Runs a task. A failure is counted and logged, and does not affect the task group.

    Args:
        what: name of the task in the log.
    """
    try:
        await step(*arguments)
    except Exception as error:
        failures.note(what, error)


async def keep_running(
    what: str, step: Callable[..., Awaitable[object]], *arguments: object
) -> None:
    """Runs a task as :func:`contain` does, and restarts it whenever it ends or fails."""
    while True:
        await contain(what, step, *arguments)
        await anyio.sleep(_AGAIN)


def contained(step: Callable[_Arguments, _Task]) -> Callable[_Arguments, _Task]:
    """Decorates a task that :func:`contain` shall run."""

    @functools.wraps(step)
    async def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        await contain(step.__qualname__, functools.partial(step, *arguments, **named))

    return run


def endless(step: Callable[_Arguments, _Task]) -> Callable[_Arguments, _Task]:
    """Decorates a task that :func:`keep_running` shall run."""

    @functools.wraps(step)
    async def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        await keep_running(step.__qualname__, functools.partial(step, *arguments, **named))

    return run


async def accept_forever(
    listening: socket.socket, handler: Callable[[anyio.abc.SocketStream], Awaitable[None]]
) -> None:
    """Accepts connections until cancelled, and runs the handler for each in a task. A failed
    ``accept`` (out of descriptors, connection reset) or handler ends neither the others nor the
    listener.

    All pending connections are accepted in one turn of the event loop: with one per turn, a burst
    of N connections would wait for N turns of a busy loop.
    """
    #: Accepted sockets whose tasks have not started, and may never start if this is cancelled.
    waiting: set[socket.socket] = set()
    try:
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listening)
                try:
                    for _ in range(_ACCEPT_BURST):
                        accepted, _ = listening.accept()
                        waiting.add(accepted)
                        tasks.start_soon(contain, "connection", _adopt, accepted, waiting, handler)
                except (BlockingIOError, ConnectionError):
                    # None is pending, or it was reset before it was accepted.
                    continue
                except OSError as error:
                    failures.note("accept", error)
                    await anyio.sleep(_ACCEPT_RETRY)
    finally:
        for accepted in waiting:
            accepted.close()


async def _adopt(
    accepted: socket.socket,
    waiting: set[socket.socket],
    handler: Callable[[anyio.abc.SocketStream], Awaitable[None]],
) -> None:
    waiting.discard(accepted)
    try:
        accepted.setblocking(False)
        # Replies are small; Nagle's algorithm would delay them.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Fails if the connection was reset; some event loops raise other errors for that later.
        accepted.getpeername()
        stream = await anyio.abc.SocketStream.from_socket(accepted)
    except (OSError, ValueError):
        # The connection was reset.
        accepted.close()
        return
    except BaseException:
        accepted.close()
        raise
    try:
        await handler(stream)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise


def remote_address(stream: anyio.abc.SocketStream) -> tuple[str, int] | None:
    """Host and port of a connection's peer; ``None`` if it was reset, which event loops report by
    different exceptions."""
    try:
        address = stream.extra(anyio.abc.SocketAttribute.remote_address)
    except (OSError, anyio.TypedAttributeLookupError, TypeError, ValueError):
        return None
    if isinstance(address, str):
        return None
    return _resolving.canonical(str(address[0])), int(address[1])


def announce(**members: object) -> None:
    """Prints the line that tells a supervisor that the process serves, and tells systemd. It serves
    also if stdout is closed."""
    writer = _logs.LineWriter(sys.stdout)
    writer.write(json.dumps({"event": "ready", **members}) + "\n")
    writer.flush(_ANNOUNCE)
    writer.close()
    _notify.ready()


def _stop_signals() -> list[signal.Signals]:
    """Signals that request an orderly shutdown. SIGHUP is one unless it is ignored, as by
    nohup(1)."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


async def until_signalled(main: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Runs ``main`` with an event that is set by SIGTERM, SIGINT or SIGHUP. As long as the event
    loop turns, systemd's watchdog is told so."""
    stopping = anyio.Event()

    async def watch() -> None:
        with anyio.open_signal_receiver(*_stop_signals()) as signals:
            async for _ in signals:
                _notify.tell(_notify.STOPPING)
                stopping.set()
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        if interval := _notify.watchdog_interval():
            tasks.start_soon(_show_life, interval)
        await main(stopping)
        tasks.cancel_scope.cancel()


async def _show_life(interval: float) -> None:
    while True:
        _notify.tell(_notify.ALIVE)
        await anyio.sleep(interval)


def run(main: Callable[[anyio.Event], Awaitable[None]], *, wants_uvloop: bool = False) -> None:
    """Runs a server until a signal stops it. An error ends the process with a report on stderr and
    status 1.

    Args:
        wants_uvloop: use uvloop if it is installed.
    """
    options = {"use_uvloop": wants_uvloop and importlib.util.find_spec("uvloop") is not None}
    try:
        anyio.run(until_signalled, main, backend_options=options)
    except Exception as error:
        problem = error
    else:
        return
    # Outside of the handler: some versions of Python print a traceback for an exit in there.
    while isinstance(problem, ExceptionGroup):
        problem = problem.exceptions[0]
    if not isinstance(problem, PilotError | OSError):
        log.error("defect", exc_info=problem)
        problem = InternalError(f"a defect of ours: {problem!r}")
    fail(problem)


def run_command(command: click.Command, arguments: list[str]) -> None:
    """Runs a server's command line, and reports errors as JSON on stderr. A signal that arrives
    before the server handles it ends the process without output.

    Args:
        command: the command to run.
        arguments: its arguments.
    """
    for number in _stop_signals():
        signal.signal(number, _leave)
    gc.freeze()
    gc.enable()
    try:
        # click returns the status of a command that exits, else the command's own result: None.
        raise SystemExit(command.main(arguments, standalone_mode=False) or 0)
    except click.ClickException as error:
        if _streams.is_terminal(sys.stderr) and not _wants_json(arguments):
            _commands.show_usage_error(error)
            raise SystemExit(error.exit_code) from None
        message = error.format_message().rstrip(".")
        hint = getattr(error, "hint", None) or f"see: {command.name} --help"
        fail(InvalidArgument(message, hint=hint), status=_USAGE)
    except PilotError as error:
        fail(error)
    except UnicodeEncodeError as error:
        hint = "arguments and environment variables are UTF-8"
        fail(InvalidArgument(f"not text: {error.object!r}", hint=hint), status=_USAGE)


def _leave(number: int, frame: object) -> None:
    del number, frame
    raise SystemExit(0)


def _wants_json(arguments: list[str]) -> bool:
    """Whether JSON logs are requested; works for arguments that click cannot parse."""
    flags = [*arguments, ""]
    named = [
        value if name == "--log-format" else name.removeprefix("--log-format=")
        for name, value in itertools.pairwise(flags)
        if name == "--log-format" or name.startswith("--log-format=")
    ]
    return (named or [os.environ.get("PILOT_LOG_FORMAT", "")])[-1] == "json"


def fail(error: BaseException, status: int = 1) -> None:
    """Reports an error as JSON on stderr, and ends the process."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    report = {
        "status": "error",
        "code": getattr(error, "code", "internal"),
        "message": str(error),
    }
    if hint := getattr(error, "hint", None):
        report["hint"] = hint
    writer = _logs.stderr()
    writer.write(json.dumps(report) + "\n")
    writer.flush(_logs.FAREWELL)
    raise SystemExit(status)
