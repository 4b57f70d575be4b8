"""Logs of a server process. Logging neither raises nor waits: lines go to a thread, and what cannot
be written (a closed pipe, a full disk, a terminal that stands still) is dropped and counted."""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS: Final = ("debug", "info", "warn", "error")
FORMATS: Final = ("text", "json")
#: Lines that may wait to be written, and bytes of all of them together.
MAX_LINES: Final = 4096
MAX_BYTES: Final = 4 << 20
#: Bytes of a line; the rest of it is cut off.
MAX_LINE: Final = 64 << 10
#: Seconds that an ending process waits for its last lines to be taken.
FAREWELL: Final = 1.0
#: Milliseconds for a non-blocking descriptor to take more.
_PATIENCE: Final = 1000
#: Members whose line breaks belong to them.
_BLOCKS: Final = frozenset({"exception", "stack"})


class LineWriter:
    """Lines to a stream; whoever writes neither waits nor fails.

    Args:
        stream: where lines go; ``None`` drops them, as a closed descriptor does.
        note: the line that tells how many were dropped before it.
    """

    def __init__(
        self, stream: TextIO | None, note: Callable[[int], str] = "{} lines were dropped\n".format
    ) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._note = note
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._is_idle = True
        self._is_closed = False
        self._untold = 0
        #: Lines that were never written.
        self.dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Takes a line with its end."""
        if self._fd < 0:
            self._write_through(text)
            return
        line = text.encode("utf-8", "backslashreplace")
        if len(line) > MAX_LINE:
            line = line[: MAX_LINE - 1] + b"\n"
        with self._changed:
            if (
                self._is_closed
                or len(self._lines) >= MAX_LINES
                or self._size + len(line) > MAX_BYTES
            ):
                self._drop()
                return
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                with suppress(RuntimeError):  # the interpreter is about to end
                    self._thread.start()

    def flush(self, patience: float = 0.0) -> None:
        """Waits until everything is written, for ``patience`` seconds at most."""
        until = time.monotonic() + patience
        with self._changed:
            while self._lines or not self._is_idle:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def close(self) -> None:
        """Gives the descriptor back as soon as what waits is written, or cannot be."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            if self._thread is None and self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _write_through(self, text: str) -> None:
        """To a stream without a descriptor, which is in memory."""
        try:
            if self._stream is None:
                raise ValueError("closed")
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._is_idle = True
                    self._changed.notify_all()
                    if self._is_closed:
                        os.close(self._fd)
                        return
                    self._changed.wait()
                self._is_idle = False
                line = self._lines.popleft()
                self._size -= len(line)
                untold, self._untold = self._untold, 0
            if untold and not self._put(self._note(untold).encode()):
                self._untold += untold
            if not self._put(line):
                with self._changed:
                    self._drop()

    def _put(self, octets: bytes) -> bool:
        try:
            while octets:
                try:
                    octets = octets[os.write(self._fd, octets) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    if not poll.poll(_PATIENCE):
                        return False
        except OSError:
            return False
        return True


def _descriptor(stream: TextIO | None) -> int:
    try:
        # A copy, whose number nothing else gets when somebody closes the stream.
        return os.dup(stream.fileno()) if stream is not None else -1
    except (OSError, ValueError, AttributeError):
        return -1


def configure(level: str, form: str) -> LineWriter:
    """Structured logs on stderr, from Python and from the core; returns what writes them."""
    global _stderr
    occupy_standard_descriptors()
    number = getattr(logging, level.upper().replace("WARN", "WARNING"))
    is_json = form == "json"
    writer = _stderr = LineWriter(sys.stderr, _note_json if is_json else _note_text)
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _escape,
    ]
    renderer = _Renderer(
        structlog.processors.JSONRenderer()
        if is_json
        else structlog.dev.ConsoleRenderer(
            colors=is_terminal(sys.stderr),
            # Local variables, which others show, may be secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Logger(writer),
    )
    logging.raiseExceptions = False
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    atexit.register(writer.flush, FAREWELL)
    return writer


def stderr() -> LineWriter:
    """What writes lines to stderr: behind those that wait there already."""
    return _stderr or LineWriter(sys.stderr)


_stderr: LineWriter | None = None


class _Logger:
    """What structlog hands rendered lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        self._writer.write(message + "\n")

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Renderer:
    """Renders what others cannot, too: a value whose representation fails is no reason to fail."""

    def __init__(self, inner: structlog.typing.Processor) -> None:
        self._inner = inner

    def __call__(
        self, logger: Any, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.ProcessorReturnValue:
        try:
            return self._inner(logger, method, dict(event))
        except Exception as error:
            return f"{event.get('event')!s:.200} (its members cannot be shown: {type(error)})"


def _escape(
    logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Text from outside moves no cursor and begins no line of its own."""
    del logger, method
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n" if name in _BLOCKS else ""
            event[name] = "".join(
                c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
                for c in value
            )
    return event


def _unraisable(problem: Any) -> None:
    kind = getattr(problem.exc_type, "__name__", "")
    structlog.get_logger(__name__).error(
        "unraisable", error=f"{kind}: {problem.exc_value}", where=problem.err_msg
    )


def _note_text(count: int) -> str:
    return f"[warning  ] log_lines_dropped              count={count}\n"


def _note_json(count: int) -> str:
    return json.dumps({"event": "log_lines_dropped", "level": "warning", "count": count}) + "\n"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody reads a stream as it comes."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def occupy_standard_descriptors() -> None:
    """Whatever is opened later must not get the number of a closed stderr, and its lines."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
