"""What every server process does: logging, addresses, signals, the line that says it is ready."""

from __future__ import annotations

import importlib.util
import json
import logging
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import structlog

from pilotstack.errors import InvalidArgument, PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger(__name__)

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("text", "json")
_MAX_PORT = 0xFFFF
#: Connections accepted before others have a turn.
_ACCEPT_BURST = 256
#: Seconds before connections are accepted again after that failed.
_ACCEPT_RETRY = 0.1


def configure_logging(level: str, form: str) -> None:
    """Structured logs on stderr, from Python and from the core."""
    number = getattr(logging, level.upper().replace("WARN", "WARNING"))
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)


def raise_file_limit() -> None:
    """Allows as many descriptors as the system does: the usual soft limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
    return host.strip("[]") or default_host, int(port)


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """A listening TCP socket; port 0 means any.

    Raises:
        OSError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=backlog)
    listening.setblocking(False)
    return listening


async def accept_forever(
    listening: socket.socket, handler: Callable[[anyio.abc.SocketStream], Awaitable[None]]
) -> None:
    """Gives every connection a task, until cancelled. A connection that cannot be accepted, for
    want of descriptors or because it is gone again, ends neither the others nor the listening.

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
                        tasks.start_soon(_adopt, accepted, waiting, handler)
                except BlockingIOError:
                    continue
                except OSError as error:
                    log.warning("accept_failed", error=str(error))
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
        stream = await anyio.abc.SocketStream.from_socket(accepted)
    except (OSError, ValueError):
        # It is gone again.
        accepted.close()
        return
    except BaseException:
        accepted.close()
        raise
    await handler(stream)


def announce(**members: object) -> None:
    """Prints the line that tells a supervisor that the process serves."""
    sys.stdout.write(json.dumps({"event": "ready", **members}) + "\n")
    sys.stdout.flush()


async def until_signalled(main: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Runs ``main`` with an event that SIGTERM or SIGINT sets."""
    stopping = anyio.Event()

    async def watch() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
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
    except* PilotError as group:
        fail(group.exceptions[0])
    except* OSError as group:
        fail(group.exceptions[0])


def fail(error: BaseException) -> None:
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
    sys.stderr.write(json.dumps(report) + "\n")
    raise SystemExit(1)
