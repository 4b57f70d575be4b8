"""What every server process does: addresses, connections, signals, tasks that go on, the line that
says it is ready."""

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

from pilotstack import _commands, _events, _logs, _resolving, _streams
from pilotstack.errors import (
    AlreadyExists,
    InternalError,
    InvalidArgument,
    PermissionDenied,
    PilotError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

log = _events.get_logger(__name__)

_Arguments = ParamSpec("_Arguments")

LEVELS = _logs.LEVELS
FORMATS = _logs.FORMATS
_MAX_PORT = 0xFFFF
#: Open files of a process without a limit; and what is kept of them for other things than
#: connections, at least and at most.
_MAX_FILES = 1 << 20
_OTHER_FILES, _MAX_OTHER_FILES = 32, 1024
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
#: Exit status of a command line that makes no sense.
_USAGE = 2
#: Connections accepted before others have a turn.
_ACCEPT_BURST = 256
#: Seconds before connections are accepted again after that failed.
_ACCEPT_RETRY = 0.1
#: Seconds before a task that failed begins again.
_AGAIN = 1.0
#: Seconds between two tracebacks of the same failure: a remote cause must not fill the log.
_TELL_EVERY = 10.0
#: Seconds for stdout to take a line.
_ANNOUNCE = 0.2


def configure_logging(level: str, form: str) -> None:
    """Structured logs on stderr, from Python and from the core."""
    _logs.configure(level, form)


def raise_file_limit() -> None:
    """Allows as many descriptors as the system does: the usual soft limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for_connections() -> int:
    """Connections that the limit of open files leaves room for, beside a quarter for everything
    else; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, limit - max(_OTHER_FILES, min(limit // 4, _MAX_OTHER_FILES)))


def split_address(text: str, *, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """Host and port of ``host:port``, ``[v6]:port`` or ``:port``.

    Raises:
        InvalidArgument: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
        raise InvalidArgument(
            f"not an address: {text!r}", hint="addresses look like 127.0.0.1:9000 or :9000"
        )
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    return _resolving.check_host(host or default_host), int(port)


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
    """Why an address cannot be bound, in words that name it."""
    address = join_address(host, port)
    # The core tells the number in its text only.
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
    """An address to listen on that is not this host's."""


class Failures:
    """How often what should not have failed did; under few names, which no remote chooses."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def note(self, what: str, error: BaseException) -> None:
        """Counts a failure, and logs it with its traceback unless that was done just before."""
        self.counts[what] += 1
        now = time.monotonic()
        if now - self._told.get(what, -_TELL_EVERY) >= _TELL_EVERY:
            self._told[what] = now
            log.error("task_failed", task=what, times=self.counts[what], exc_info=error)


#: Of this process.
failures: Final = Failures()


async def contain(what: str, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Runs a task whose failure is its own: it is counted and logged, and ends nothing else.

    Args:
        what: its name in the log.
    """
    try:
        await step(*arguments)
    except Exception as error:
        failures.note(what, error)


async def keep_running(
    what: str, step: Callable[..., Awaitable[object]], *arguments: object
) -> None:
    """As :func:`contain`, for what is to go on for ever: after a failure it begins again."""
    while True:
        await contain(what, step, *arguments)
        await anyio.sleep(_AGAIN)


def contained(
    step: Callable[_Arguments, Coroutine[Any, Any, None]],
) -> Callable[_Arguments, Coroutine[Any, Any, None]]:
    """A task that fails for itself; see :func:`contain`."""

    @functools.wraps(step)
    async def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        await contain(step.__qualname__, functools.partial(step, *arguments, **named))

    return run


def endless(
    step: Callable[_Arguments, Coroutine[Any, Any, None]],
) -> Callable[_Arguments, Coroutine[Any, Any, None]]:
    """A loop that is to go on whatever happens in it; see :func:`keep_running`."""

    @functools.wraps(step)
    async def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        await keep_running(step.__qualname__, functools.partial(step, *arguments, **named))

    return run


async def accept_forever(
    listening: socket.socket, handler: Callable[[anyio.abc.SocketStream], Awaitable[None]]
) -> None:
    """Gives every connection a task, until cancelled. A connection that cannot be accepted, for
    want of descriptors or because it is gone again, or whose handler fails, ends neither the others
    nor the listening.

    All that wait are accepted at once: one for each turn of a busy loop would keep newcomers
    waiting for as many turns as there are of them.
    """
    #: Whose tasks have not begun, and may never when this is cancelled.
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
                    # No connection is waiting, or it was reset before it was accepted.
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
        # Answers are small and wait for nothing.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A reset connection fails here; some event loops raise errors of other types for it later.
        accepted.getpeername()
        stream = await anyio.abc.SocketStream.from_socket(accepted)
    except (OSError, ValueError):
        # It is gone again.
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
    """Where a connection comes from; ``None`` if it is gone, which loops say in several ways."""
    try:
        address = stream.extra(anyio.abc.SocketAttribute.remote_address)
    except (OSError, anyio.TypedAttributeLookupError, TypeError, ValueError):
        return None
    if isinstance(address, str):
        return None
    return _resolving.canonical(str(address[0])), int(address[1])


def announce(**members: object) -> None:
    """Prints the line that tells a supervisor that the process serves; a closed stdout is no
    reason not to."""
    writer = _logs.LineWriter(sys.stdout)
    writer.write(json.dumps({"event": "ready", **members}) + "\n")
    writer.flush(_ANNOUNCE)
    writer.close()


def _endings() -> list[signal.Signals]:
    """What asks for an orderly end: a terminal that closes does, unless nohup(1) says otherwise."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


async def until_signalled(main: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Runs ``main`` with an event that SIGTERM, SIGINT or SIGHUP sets."""
    stopping = anyio.Event()

    async def watch() -> None:
        with anyio.open_signal_receiver(*_endings()) as signals:
            async for _ in signals:
                stopping.set()
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await main(stopping)
        tasks.cancel_scope.cancel()


def run(main: Callable[[anyio.Event], Awaitable[None]], *, wants_uvloop: bool = False) -> None:
    """Runs a server until it is told to stop; errors end the process with a message and code 1.

    Args:
        wants_uvloop: uvloop serves, if it is installed.
    """
    options = {"use_uvloop": wants_uvloop and importlib.util.find_spec("uvloop") is not None}
    try:
        anyio.run(until_signalled, main, backend_options=options)
    except Exception as error:
        problem = error
    else:
        return
    # Not in a handler: some versions of Python show an exit from there with tracebacks.
    while isinstance(problem, ExceptionGroup):
        problem = problem.exceptions[0]
    if not isinstance(problem, PilotError | OSError):
        log.error("defect", exc_info=problem)
        problem = InternalError(f"a defect of ours: {problem!r}")
    fail(problem)


def run_command(command: click.Command, arguments: list[str]) -> None:
    """Runs the command line of a server. Errors are JSON where its log is; a signal that comes
    before it can be handled ends the process quietly.

    Args:
        command: what to run.
        arguments: its command line.
    """
    for number in _endings():
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
    """Whether the log is JSON, also when the rest cannot be parsed."""
    flags = [*arguments, ""]
    named = [
        value if name == "--log-format" else name.removeprefix("--log-format=")
        for name, value in itertools.pairwise(flags)
        if name == "--log-format" or name.startswith("--log-format=")
    ]
    return (named or [os.environ.get("PILOT_LOG_FORMAT", "")])[-1] == "json"


def fail(error: BaseException, status: int = 1) -> None:
    """Says why the process ends, as JSON on stderr, and ends it."""
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
