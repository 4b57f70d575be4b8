"""Logging never raises and never blocks."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.support.logs import captured_logs

from pilotstack import _events, _logs

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
        _events.get_logger("pilotstack.test").info("moved", endpoint="192.0.2.1:4000")
    assert [record.getMessage() for record in records] == ["moved endpoint=192.0.2.1:4000"]
