"""Logging never raises and never blocks."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.logs import captured_logs

from pilotstack import _events, _logs
from pilotstack._events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _restored() -> Iterator[None]:
    """What configuring changes in the whole process is put back."""
    root, hook, raises = logging.getLogger(), sys.unraisablehook, logging.raiseExceptions
    handlers, level = list(root.handlers), root.level
    yield
    if _logs._stderr is not None:
        _logs._stderr.close()
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    sys.unraisablehook, logging.raiseExceptions = hook, raises
    _logs._stderr = None


@contextmanager
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        try:
            yield reader, stream
        finally:
            os.close(reader)


def drained(fd: int) -> bytes:
    os.set_blocking(fd, False)
    text = b""
    try:
        while data := os.read(fd, 1 << 16):
            text += data
    except BlockingIOError:
        pass
    return text


def test_lines_are_written_in_order() -> None:
    with pipe() as (reader, stream):
        writer = _logs.LineWriter(stream)
        for number in range(100):
            writer.write(f"{number}\n")
        writer.flush(30)
        assert drained(reader).decode().split() == [str(number) for number in range(100)]
        assert writer.dropped == 0


def test_a_blocked_terminal_blocks_no_logger() -> None:
    with pipe() as (reader, stream):
        writer = _logs.LineWriter(stream, "({} dropped)\n".format)
        line = "x" * 1000 + "\n"
        for _ in range(_logs.MAX_LINES * 3):
            writer.write(line)
        assert writer.dropped > 0
        os.set_blocking(reader, True)
        text = b""
        while b"dropped)" not in text:
            text += os.read(reader, 1 << 16)
            writer.write("again\n")
        assert writer._size <= _logs.MAX_BYTES
        writer.close()


def test_a_closed_pipe_is_no_failure() -> None:
    reader, end = os.pipe()
    os.close(reader)
    with open(end, "w") as stream:
        writer = _logs.LineWriter(stream)
        for _ in range(3):
            writer.write("a line\n")
        writer.flush(30)
        assert writer.dropped == 3


def test_a_full_disk_is_no_failure() -> None:
    with open("/dev/full", "w") as stream:
        writer = _logs.LineWriter(stream)
        writer.write("a line\n")
        writer.flush(30)
        assert writer.dropped == 1


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_missing_stream_is_no_failure(stream: str | None) -> None:
    closed = io.StringIO()
    closed.close()
    writer = _logs.LineWriter(closed if stream else None)
    writer.write("a line\n")
    assert writer.dropped == 1


def test_long_lines_are_truncated() -> None:
    with pipe() as (reader, stream):
        writer = _logs.LineWriter(stream)
        os.set_blocking(reader, True)
        writer.write("x" * (2 * _logs.MAX_LINE))
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(reader, 1 << 16)
        assert len(text) == _logs.MAX_LINE


class Shy:
    def __repr__(self) -> str:
        raise ValueError("not telling")


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("form", _logs.FORMATS)
def test_unprintable_values_are_logged(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, stream):
        monkeypatch.setattr(sys, "stderr", stream)
        writer = _logs.configure("info", form)
        _events.get_logger("test").info("shy", value=Shy())
        _events.get_logger("test").info("odd", value="\udcff", other=b"\xff")
        logging.getLogger("test").warning("%s", Shy())
        logging.getLogger("test").warning("%d", "no number")
        writer.flush(30)
        text = drained(reader)
        assert b"shy" in text
        assert b"odd" in text


@pytest.mark.usefixtures("_restored")
def test_untrusted_text_cannot_inject_lines_or_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pipe() as (reader, stream):
        monkeypatch.setattr(sys, "stderr", stream)
        writer = _logs.configure("info", "text")
        _events.get_logger("test").info("said", text="\x1b[2J\nforged \u202e")
        logging.getLogger("test").warning("plain \x1b[2J\nforged")
        writer.flush(30)
        text = drained(reader).decode()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert len(text.splitlines()) == 2


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("form", _logs.FORMATS)
def test_a_traceback_is_shown_without_the_values(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pipe() as (reader, stream):
        monkeypatch.setattr(sys, "stderr", stream)
        writer = _logs.configure("info", form)
        try:
            token = "a " + "secret"
            raise RuntimeError(len(token))
        except RuntimeError:
            _events.get_logger("test").exception("failed")
        writer.flush(30)
        text = drained(reader).decode()
        assert "RuntimeError: 8" in text
        assert "a secret" not in text
        if form == "json":
            assert "Traceback" in json.loads(text)["exception"]


def test_a_closed_stderr_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    writer = _logs.stderr()
    writer.write("a line\n")
    assert writer.dropped == 1


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("form", "line"),
    [
        (
            "text",
            "2023-11-14T22:13:20.500000Z [warning  ] lost                           "
            "empty= node=7 why='no answer'",
        ),
        (
            "json",
            '{"why": "no answer", "node": 7, "empty": "", "event": "lost", "level": "warning", '
            '"timestamp": "2023-11-14T22:13:20.500000Z"}',
        ),
    ],
)
def test_an_event_is_one_line_with_its_members(form: str, line: str) -> None:
    formatter = _logs.JsonFormatter() if form == "json" else _logs.TextFormatter(False)
    event = _events.Event("lost", {"why": "no answer", "node": 7, "empty": ""})
    record = logging.LogRecord("test", logging.WARNING, "", 0, event, (), None)
    record.created = 1_700_000_000.5
    assert formatter.format(record) == line


def test_a_terminal_gets_colours() -> None:
    record = logging.LogRecord("test", logging.INFO, "", 0, _events.Event("up", {}), (), None)
    assert "\x1b[1mup\x1b[0m" in _logs.TextFormatter(True).format(record)
    assert "\x1b" not in _logs.TextFormatter(False).format(record)


def test_a_program_that_embeds_the_package_sees_events_as_log_records() -> None:
    with captured_logs() as records:
        _events.get_logger("pilotstack.test").info("moved", node=3)
    assert [record.getMessage() for record in records] == ["moved node=3"]


def test_one_event_does_not_flood_the_log() -> None:
    now = 0.0
    limit = _logs.Limit(lambda: now)

    def members(record: logging.LogRecord) -> object:
        return getattr(record.msg, "members", None)

    def record(event: object, level: int = logging.INFO) -> logging.LogRecord:
        return logging.LogRecord("x", level, __file__, 1, event, None, None)

    flood = [limit.filter(record(Event("flood", {"node": n}))) for n in range(1000)]
    assert flood.count(True) == _logs.EVENT_BURST
    # Neither others nor what is for debugging suffer.
    assert limit.filter(record(Event("other", {})))
    assert limit.filter(record(Event("flood", {}), logging.DEBUG))
    now = 1.0
    later = record(Event("flood", {"node": 7}))
    assert limit.filter(later)
    assert members(later) == {"node": 7, "unlogged": 800}
    assert limit.filter(again := record(Event("flood", {})))
    assert members(again) == {}


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_where_somebody_is_stands_in_debugging_logs_only(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    log = _events.get_logger("pilotstack.of_a_test")
    with caplog.at_level(level, "pilotstack.of_a_test"):
        log.info("moved", node=3, endpoint="192.0.2.1:4000")
    members = {"node": 3, "endpoint": "192.0.2.1:4000"} if level == logging.DEBUG else {"node": 3}
    assert getattr(caplog.records[0].msg, "members", None) == members


#: What names an IP address or a port of somebody, and must not be a member above debug.
_ADDRESSES = {"addr", "host", "ip_address", "peer_addr", "real_addr", "remote", "port_of_peer"}


def test_no_event_above_debug_names_an_address_by_another_member() -> None:
    for path in (Path(__file__).parents[2] / "python" / "pilotstack").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"info", "warning", "error", "critical", "security"}
                and getattr(node.func.value, "id", "") == "log"
            ):
                named = {keyword.arg for keyword in node.keywords}
                assert not named & _ADDRESSES, f"{path}:{node.lineno}"
