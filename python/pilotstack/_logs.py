"""Logs of a server process, as text or JSON on stderr.

Logging neither raises nor blocks: a thread writes the lines, and lines that cannot be written
(closed pipe, full disk, paused terminal) are dropped and counted.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from pilotstack._events import Event, get_logger
from pilotstack._streams import is_terminal, occupy_standard_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS: Final = ("debug", "info", "warn", "error")
FORMATS: Final = ("text", "json")
#: Lines that are queued at most, and bytes of all of them.
MAX_LINES: Final = 4096
MAX_BYTES: Final = 4 << 20
#: Bytes of a line; a longer one is cut.
MAX_LINE: Final = 64 << 10
#: Records of one event: per second over time, and at once.
EVENT_RATE: Final = 10.0
EVENT_BURST: Final = 200.0
#: Seconds that an exiting process waits for its last lines to be written.
FAREWELL: Final = 1.0
#: Milliseconds that the thread waits for a non-blocking descriptor to become writable.
_PATIENCE: Final = 1000


class LineWriter:
    """Queues lines and writes them to a stream in a thread; callers neither block nor fail.

    Args:
        stream: where lines go; ``None`` or a closed one drops them.
        note: makes the line that says how many lines were dropped before it.
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
        #: Lines that were dropped.
        self.dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Queues a line, which ends in a line feed."""
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
                with suppress(RuntimeError):  # the interpreter is shutting down
                    self._thread.start()

    def flush(self, patience: float = 0.0) -> None:
        """Waits until the queue is written, for ``patience`` seconds at most."""
        until = time.monotonic() + patience
        with self._changed:
            while self._lines or not self._is_idle:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def close(self) -> None:
        """Closes the descriptor once the queue is written or dropped."""
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
        """Writes to a stream without a descriptor, such as one in memory."""
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

    def _put(self, data: bytes) -> bool:
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
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
        # A duplicate: when the stream is closed, its number may be reused for another file.
        return os.dup(stream.fileno()) if stream is not None else -1
    except (OSError, ValueError, AttributeError):
        return -1


def configure(level: str, form: str) -> LineWriter:
    """Sends log records of Python and of the core to stderr; returns the writer."""
    global _stderr
    occupy_standard_descriptors()
    is_json = form == "json"
    writer = _stderr = LineWriter(sys.stderr, _note_json if is_json else _note_text)
    logging.raiseExceptions = False
    handler = logging.StreamHandler(writer)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter(is_terminal(sys.stderr)))
    handler.addFilter(Limit())
    number = getattr(logging, level.upper().replace("WARN", "WARNING"))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    atexit.register(writer.flush, FAREWELL)
    return writer


def stderr() -> LineWriter:
    """The writer of stderr: its lines follow those that are queued."""
    return _stderr or LineWriter(sys.stderr)


def stderr_dropped() -> int:
    """Lines of stderr that were dropped since logging was configured."""
    return _stderr.dropped if _stderr is not None else 0


_stderr: LineWriter | None = None


class Limit(logging.Filter):
    """Lets so many records of one event pass, and tells with a later one how many it did not.
    Records for debugging pass always: who asks for them wants them.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        #: By event: what may pass, when that was computed, and how many did not. Names are from
        #: the sources, not from peers, so there are not many.
        self._events: dict[str, list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        if record.levelno <= logging.DEBUG:
            return True
        event = record.msg
        name = event.name if isinstance(event, Event) else f"{record.name}:{record.lineno}"
        now = self._clock()
        state = self._events.setdefault(name, [EVENT_BURST, now, 0.0])
        allowed = min(EVENT_BURST, state[0] + EVENT_RATE * (now - state[1]))
        state[0], state[1] = allowed, now
        if allowed < 1:
            state[2] += 1
            return False
        state[0] -= 1
        if state[2] and isinstance(event, Event):
            record.msg = Event(name, {**event.members, "unlogged": int(state[2])})
            state[2] = 0.0
        return True


class _Formatter(logging.Formatter, ABC):
    """Renders a record as one line, also when the ``repr`` of one of its members fails."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        try:
            return self.render(_members_of(record), record)
        except Exception as error:
            name = record.msg.name if isinstance(record.msg, Event) else record.name
            return f"{name:.200} (its members cannot be shown: {type(error)})"

    @abstractmethod
    def render(self, members: dict[str, object], record: logging.LogRecord) -> str:
        """The line of a record whose members were read."""


class JsonFormatter(_Formatter):
    """One JSON object per record."""

    def render(self, members: dict[str, object], record: logging.LogRecord) -> str:
        """See :class:`_Formatter`."""
        shown = {name: _escaped(value) for name, value in members.items()} | {
            "event": _escaped(_message_of(record)),
            "level": record.levelname.lower(),
            "timestamp": _time_of(record),
        }
        if record.exc_info:
            shown["exception"] = _escaped(self.formatException(record.exc_info), keeps_lines=True)
        return json.dumps(shown, default=repr)


class TextFormatter(_Formatter):
    """Time, level, event and members in columns; a traceback on lines of its own.

    Args:
        is_coloured: for a terminal.
    """

    def __init__(self, is_coloured: bool) -> None:
        super().__init__()
        self._is_coloured = is_coloured

    def render(self, members: dict[str, object], record: logging.LogRecord) -> str:
        """See :class:`_Formatter`."""
        level = record.levelname.lower()
        event = str(_escaped(_message_of(record)))
        line = (
            f"{self._styled(_DIM, _time_of(record))} "
            f"[{self._styled(_LEVEL_STYLES.get(level, _BRIGHT), f'{level:<9}')}] "
            f"{self._styled(_BRIGHT, f'{event:<30}' if members else event)}"
        )
        for name in sorted(members):
            value = _text_of(_escaped(members[name]))
            line += f" {self._styled(_CYAN, name)}={self._styled(_MAGENTA, value)}"
        if record.exc_info:
            line += f"\n{_escaped(self.formatException(record.exc_info), keeps_lines=True)}"
        return line

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_coloured else text


_BRIGHT, _DIM, _CYAN, _MAGENTA = "1", "2", "36", "35"
_LEVEL_STYLES: Final = {
    "debug": "32",
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "31",
}


def describe(record: logging.LogRecord) -> tuple[str, str]:
    """What a record says: its event, and its members as text."""
    members = sorted(_members_of(record).items())
    shown = (f"{name}={_text_of(_escaped(value))}" for name, value in members)
    return str(_escaped(_message_of(record))), " ".join(shown)


def _members_of(record: logging.LogRecord) -> dict[str, object]:
    return dict(record.msg.members) if isinstance(record.msg, Event) else {}


def _message_of(record: logging.LogRecord) -> str:
    return record.msg.name if isinstance(record.msg, Event) else record.getMessage()


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text_of(value: object) -> str:
    """The text of a value, in quotes if it has blanks or quotes itself."""
    if isinstance(value, str) and not set(value) & set(" \t=\"'"):
        return value
    return repr(value)


def _escaped(value: object, *, keeps_lines: bool = False) -> object:
    """The value, with control characters of a text as escapes: text from peers must not move the
    cursor or look like a line of its own."""
    if not isinstance(value, str) or value.isprintable():
        return value
    kept = "\n" if keeps_lines else ""
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in value
    )


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    kind = getattr(problem.exc_type, "__name__", "")
    get_logger(__name__).error(
        "unraisable", error=f"{kind}: {problem.exc_value}", where=problem.err_msg
    )


def _note_text(count: int) -> str:
    return f"[warning  ] log_lines_dropped              count={count}\n"


def _note_json(count: int) -> str:
    return json.dumps({"event": "log_lines_dropped", "level": "warning", "count": count}) + "\n"
